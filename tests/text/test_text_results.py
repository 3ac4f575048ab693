"""What comes back for texts: words, colours, files; the model as it was; messages."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch
from rich.console import Console
from text_tiny import LONG, SHORT, lrp_of, make, tokenizer

import relprop
from relprop.errors import CaptureError, InputError, MissingDependencyError, TargetError, UsageError
from relprop.text import Piece, TokenRelevance
from relprop.text.tokens import merged, padded
from relprop.viz import tokens as drawing

TOKENIZER = tokenizer()


def result_of(values, texts=("a lovely film",), pieces=None, **fields):
    """A result made by hand, of one text."""
    pieces = pieces or (("a", 0, True), ("love", 1, True), ("##ly", 1, False), ("film", 2, True))
    made = tuple(Piece(token, token.removeprefix("#" * 2), word, space) for token, word, space in pieces)
    relevance = torch.tensor([values])
    score = relevance.sum(1)
    return TokenRelevance(
        texts, (made,), relevance, torch.tensor([1]), score, torch.zeros(1, 2), ("no", "yes"), **fields
    )


# ---- words


def test_pieces_of_a_word_are_added_up():
    result = result_of([0.5, 0.25, -0.125, 0.0])
    assert result.words() == [("a", 0.5), ("lovely", 0.125), ("film", 0.0)]
    assert result.tokens == (("a", "love", "##ly", "film"),)
    assert result.explained() == "yes"


def test_words_come_from_the_text_itself():
    result = lrp_of()(["What a LOVELY film.", (SHORT, "so long")], target=0)
    assert [word for word, _ in result.words()] == ["[CLS]", "What", "a", "LOVELY", "film", ".", "[SEP]"]
    assert [word for word, _ in result.words(1)][-4:] == ["[SEP]", "so", "long", "[SEP]"]
    assert sum(value for _, value in result.words()) == pytest.approx(sum(result.values()))
    assert [piece.space for piece in result.pieces[0][1:8]] == [True, True, True, False, True, False, True]


def test_the_same_word_twice_is_two_words():
    pieces = [Piece("so", "so", 0), Piece("so", "so", 1), Piece("[SEP]", "[SEP]"), Piece("[SEP]", "[SEP]")]
    assert merged(pieces, [1.0, 2.0, 3.0, 4.0]) == [("so", 1.0), ("so", 2.0), ("[SEP]", 3.0), ("[SEP]", 4.0)]


def test_lengths_that_are_captured_are_few():
    assert [padded(size) for size in (1, 16, 17, 100)] == [16, 16, 32, 128]
    assert padded(100, limit=110) == 110


# ---- colours


@pytest.mark.parametrize("values", [[0.5, 0.25, -0.125, 0.0], [0.5, 0.25, 0.125, 0.0]], ids=["signed", "positive"])
def test_every_letter_can_be_read_on_its_colour(values):
    scale = drawing.scale_for(result_of(values))
    for step in torch.linspace(scale.low, scale.high, 101).tolist():
        colour, ink = drawing.swatch(scale, step)
        assert drawing.contrast(colour, ink) >= 4.5


def test_colours_are_centred_on_zero_and_span_the_data():
    scale = drawing.scale_for(result_of([0.5, 0.25, -0.125, 0.0]))
    assert (scale.low, scale.high, scale.beyond) == (-0.5, 0.5, 0)
    (red, _, blue), _ = drawing.swatch(scale, 0.4)
    assert red > blue + 50
    (red, _, blue), _ = drawing.swatch(scale, -0.4)
    assert blue > red + 50
    zero = drawing.swatch(scale, 0.0)[0]
    assert max(zero) - min(zero) <= 1


def printed(result):
    console = Console(width=100, force_terminal=True, color_system="truecolor", record=True, file=io.StringIO())
    console.print(result)
    return console.export_text(styles=False)


def test_a_terminal_shows_tokens_sums_and_the_scale():
    shown = printed(result_of([0.5, 0.25, -0.125, 0.0]))
    assert "a lovely film" in shown
    assert "yes: 0.625000; relevance sums to 0.625000" in shown
    assert "one scale for all: -0.5 to 0.5 relevance per token; data from -0.125 to 0.5" in shown
    assert "relevance is zero at every token" in printed(result_of([0.0, 0.0, 0.0, 0.0]))


def test_a_text_cannot_move_the_cursor_or_write_markup():
    pieces = (("\x1b[2J", 0, True), ("[red]", 1, True), ("b", 2, True), ("c", 3, True))
    shown = printed(result_of([1.0, 2.0, 3.0, 4.0], pieces=pieces))
    assert "\x1b" not in shown
    assert "[red]" in shown


def test_html_escapes_tokens_and_fetches_nothing():
    pieces = (("<script>", 0, True), ('"on', 1, True), ("&", 2, True), ("d", 3, True))
    result = result_of([1.0, -2.0, 3.0, 4.0], texts=("<script>alert(1)</script>",), pieces=pieces)
    for page in (result.html(), result._repr_html_()):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert "://" not in page
        assert re.search(r'title="&quot;on: -2"', page)
        assert "one scale for all: -4 to 4" in page
    page = result.html()
    assert page.startswith("<!doctype html>")
    assert '"Segoe UI"' in page  # the style sheet is not escaped
    assert '<td class="number">-2.000000</td>' in page


# ---- files


def test_results_come_back_from_disk(tmp_path):
    result = lrp_of()([SHORT, (SHORT, LONG)], target=[0, 2])
    again = TokenRelevance.load(result.save(tmp_path / "saved"))
    for name in ("relevance", "target", "score", "output"):
        assert torch.equal(getattr(again, name), getattr(result, name))
    assert (again.texts, again.pieces, again.labels) == (result.texts, result.pieces, result.labels)
    manifest = json.loads((tmp_path / "saved" / "manifest.json").read_text())
    assert manifest["gap"] == result.ledger.gap
    assert again.html().count("largest leak") == 0  # the ledger is not saved
    relprop.explain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval(), torch.ones(1, 3, 1, 1)).save(
        tmp_path / "image"
    )
    for folder in (tmp_path / "image", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds no result"):
            TokenRelevance.load(folder)


def test_a_result_says_what_it_is():
    result = lrp_of()(SHORT, "LABEL_2")
    assert repr(result).startswith("TokenRelevance(1 text(s) by transformer; LABEL_2: 0.")
    assert len(result) == 1


# ---- the model is left alone


def state(model):
    return {
        "tensors": {
            n: (id(t), t._version, t.requires_grad, t.sum().item()) for n, t in model.state_dict(keep_vars=True).items()
        },
        "modules": {
            n: (id(m), m.training, sorted(m.__dict__), {k: dict(v) for k, v in vars(m).items() if "hooks" in k})
            for n, m in model.named_modules()
        },
        "config": model.config.to_json_string(),
        "random numbers": torch.get_rng_state().tolist(),
    }


def test_the_model_is_left_as_it_was_also_when_something_raises():
    model = make()
    model.classifier.register_forward_hook(lambda module, inputs, output: output)
    before = state(model)
    lrp = relprop.text.TokenLRP(model, TOKENIZER)
    lrp([SHORT, LONG], 1)
    assert state(model) == before
    for wrong in (
        lambda: lrp(SHORT, 9),
        lambda: lrp(""),
        lambda: lrp(SHORT, start="score"),
        lambda: lrp(SHORT, "none"),
    ):
        with pytest.raises(UsageError):
            wrong()
        assert state(model) == before
    model.train()
    before = state(model)
    with pytest.raises(CaptureError, match=r"call model.eval\(\) first"):
        relprop.text.explain(model, TOKENIZER, SHORT)
    assert state(model) == before


# ---- messages


@pytest.mark.parametrize(
    ("texts", "target", "error", "message"),
    [
        ([], None, InputError, "there is no text to explain"),
        ("  ", None, InputError, "text 0 is empty"),
        ([SHORT, 3], None, InputError, "text 1 is 3; give a string, a pair"),
        (" ".join(["long"] * 39), None, InputError, r"text 0 has 41 tokens, and the model takes 40 at most; shorten"),
        (SHORT, 5, TargetError, "class 5 does not exist: the model has 3 classes, 0 to 2"),
        (SHORT, "fine", TargetError, "no class is called 'fine'; the model's are LABEL_0, LABEL_1, LABEL_2"),
        ([SHORT, LONG], [1], TargetError, r"there are 1 targets for 2 text\(s\)"),
        (SHORT, [[0, 1]], TargetError, "one target a text"),
    ],
)
def test_texts_and_targets_that_do_not_fit(texts, target, error, message):
    with pytest.raises(error, match=message):
        lrp_of()(texts, target)


def test_what_an_embedding_cannot_say():
    with pytest.raises(TargetError, match="an embedding has no predicted class"):
        lrp_of(pooling="mean")(SHORT)
    with pytest.raises(UsageError, match="similarity compares embeddings; say how"):
        lrp_of().similarity(SHORT, LONG)
    with pytest.raises(CaptureError, match=r"BertModel has no classifier.*relprop.text.similarity"):
        relprop.text.explain(lrp_of(pooling="mean").model, TOKENIZER, SHORT)
    with pytest.raises(UsageError, match="pooling must be 'mean', 'cls' or None, not 'max'"):
        relprop.text.TokenLRP(make(), TOKENIZER, pooling="max")


def test_models_and_tokenizers_of_other_kinds():
    with pytest.raises(CaptureError, match="Linear is no text model of Hugging Face's kind"):
        relprop.text.TokenLRP(torch.nn.Linear(2, 2), TOKENIZER)
    with pytest.raises(UsageError, match="tokenizer must be a tokenizer of transformers, not int"):
        relprop.text.TokenLRP(make(), 3)


def test_a_model_that_reads_the_token_numbers_elsewhere_is_refused():
    class Reads(type(make())):
        def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
            output = super().forward(input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask)
            return output.logits if input_ids is None else output.logits * 2

    model = make()
    model.__class__ = Reads
    with pytest.raises(CaptureError, match="says something else when it is given embeddings in place of tokens"):
        relprop.text.explain(model, TOKENIZER, SHORT)


def test_a_model_that_lets_padding_take_part_is_refused():
    class Means(type(make())):
        def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
            embedded = self.bert.embeddings(input_ids, inputs_embeds=inputs_embeds)
            return self.classifier(embedded.mean(1))

    model = make()
    model.__class__ = Means
    with pytest.raises(UsageError, match="the padding of shorter texts gets relevance"):
        relprop.text.explain(model, TOKENIZER, SHORT)


def test_without_transformers_the_message_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[text\]'"):
        relprop.text.load("anything")
