"""Relevance of tokens: by hand, by a dense twin, and its properties in small models of six kinds."""

from __future__ import annotations

import pytest
import text_dense
import torch
from text_tiny import KINDS, LONG, SHORT, lrp_of, make, tokenizer

import relprop
from relprop.core.composites.presets import transformer
from relprop.core.targets.target import Contrast, Similarity, Value
from relprop.errors import TargetError

TOKENIZER = tokenizer()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_equals_its_dense_twin(attention):
    model = make("bert", attention).double()
    result = relprop.text.explain(model, TOKENIZER, [SHORT, LONG])
    for n, text in enumerate((SHORT, LONG)):
        found = TOKENIZER(text)
        ids, types = (torch.tensor(found[name]) for name in ("input_ids", "token_type_ids"))
        expected, logits = text_dense.explain_bert(model, ids, types, int(result.target[n]))
        torch.testing.assert_close(result.output[n], logits, rtol=1e-10, atol=1e-12)
        ours = torch.tensor(result.values(n), dtype=torch.float64)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
        assert result.ledger.gap <= 1e-12
        assert expected.std() > 0.01 * expected.mean()  # the tokens differ, or the comparison would say little


class OneLayer(torch.nn.Module):
    """Attention of token 0 to two tokens with weights (1/4, 3/4), and the skip; values x_0 and `second` · x_1."""

    def __init__(self, second: float) -> None:
        super().__init__()
        self.second, self.head = second, torch.nn.Linear(1, 2)

    def forward(self, x):  # (N, 2, 1)
        value = x * torch.tensor([[1.0], [self.second]])
        query, key = torch.ones(2, 1), torch.tensor([[0.0], [1.0986122886681098]])  # softmax(0, ln 3) = (1/4, 3/4)
        shape = (x.shape[0], 2, 1)
        mixed = torch.nn.functional.scaled_dot_product_attention(query.expand(shape), key.expand(shape), value, scale=1)
        return self.head((mixed + x)[:, 0])


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        # mixed = 2/4 + 3/4 = 5/4 beside the skip, 2: of 13 it gets 5, and the tokens share that as 2/4 : 3/4
        (1.0, [8 + 2, 3]),
        # mixed = 2/4 - 3/4 = -1/4: of 13 it gets 13/9, all of it to token 0, the only one with a positive value
        (-1.0, [13, 0]),
    ],
)
def test_one_layer_of_attention_by_hand(second, expected):
    composite = relprop.paper().override(
        names={"head": relprop.rule(conserves=False)(lambda step, relevance: torch.full(step.shapes[0], 13.0))}
    )
    x = torch.tensor([[[2.0], [1.0]]])
    found = relprop.LRP(OneLayer(second).eval(), composite)(x, target=0).relevance
    assert found.flatten().tolist() == pytest.approx(expected)


def test_where_no_value_is_positive_tokens_share_by_their_weights():
    """Values -2 and -1: mixed = -2/4 - 3/4, 5 of 13 as above, shared 1 : 3."""
    composite = relprop.paper().override(
        names={"head": relprop.rule(conserves=False)(lambda step, relevance: torch.full(step.shapes[0], 13.0))}
    )
    found = relprop.LRP(OneLayer(1.0).eval(), composite)(-torch.tensor([[[2.0], [1.0]]]), target=0).relevance
    assert found.flatten().tolist() == pytest.approx([8 + 5 / 4, 15 / 4])


@pytest.mark.parametrize("kind", KINDS)
def test_the_books_balance_batches_equal_singles_and_padding_gets_nothing(kind):
    lrp = lrp_of(kind)
    together = lrp([LONG, SHORT])
    assert together.ledger.gap <= 1e-5
    assert together.ledger.absorbed == 0
    torch.testing.assert_close(together.relevance.sum(1), together.score, rtol=1e-5, atol=0)
    assert (together.relevance[1, len(together.pieces[1]) :] == 0).all()
    for n, text in enumerate((LONG, SHORT)):
        alone = lrp(text, target=int(together.target[n]))
        torch.testing.assert_close(alone.output[0], together.output[n], rtol=1e-4, atol=1e-6)
        ours, theirs = torch.tensor(alone.values()), torch.tensor(together.values(n))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(alone.score))
        # and what the model itself says of the text, by its tokens, without padding
        own = lrp.model(
            **{k: torch.tensor([v]) for k, v in TOKENIZER(text).items() if k in ("input_ids", "attention_mask")}
        )
        torch.testing.assert_close(own.logits[0], together.output[n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])  # BERT's has a dense twin above
def test_the_books_balance_in_double_precision(kind):
    result = relprop.text.explain(make(kind).double(), TOKENIZER, [LONG, SHORT])
    assert result.ledger.gap <= 1e-12
    assert result.ledger.absorbed == 0
    torch.testing.assert_close(result.relevance.sum(1), result.score, rtol=1e-12, atol=0)


def test_one_plan_serves_every_mask_of_a_number_and_length_of_texts(monkeypatch):
    import relprop.core.backward.plan as plan

    calls = []
    graph_of = plan.graph_of
    monkeypatch.setattr(plan, "graph_of", lambda *given: calls.append(1) or graph_of(*given))
    lrp = relprop.text.TokenLRP(make(), TOKENIZER)
    first = lrp(SHORT, target=0)
    lrp([LONG, SHORT, "so"], target=0)
    again = lrp(["so long", SHORT], target=0)
    lrp([SHORT, "so long"], target=0)
    lrp([SHORT, "so long"], target=0)
    assert len(calls) == 3
    assert again.values(1) == pytest.approx(first.values(0), rel=1e-4)


def test_padding_to_another_length_changes_nothing():
    lrp = lrp_of()
    longer = " ".join([SHORT, LONG, LONG])
    assert len(TOKENIZER(longer)["input_ids"]) > 16
    alone, beside = lrp(SHORT, target=1), lrp([longer, SHORT], target=1)
    assert beside.values(1) == pytest.approx(alone.values(0), rel=1e-4)


def test_texts_in_parts_are_as_texts_together(monkeypatch):
    lrp = lrp_of()
    together = lrp([LONG, SHORT, "so"], target=[0, 1, 2])
    monkeypatch.setattr(lrp, "batch_size", 2)
    apart = lrp([LONG, SHORT, "so"], target=[0, 1, 2])
    torch.testing.assert_close(apart.relevance, together.relevance, rtol=1e-4, atol=1e-7)
    assert apart.ledger.start.tolist() == pytest.approx(together.ledger.start.tolist(), rel=1e-5)
    assert (apart.texts, apart.pieces) == (together.texts, together.pieces)


def test_the_embedding_and_what_positions_and_layer_norm_add_give_each_token_the_same_number():
    """Relevance at the word embedding is that after positions, types and layer norm, which pass it."""
    model = lrp_of().model
    tokens = TOKENIZER(SHORT, return_tensors="pt")

    class After(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.pooler, self.head = model.bert.encoder, model.bert.pooler, model.classifier

        def forward(self, x):
            return self.head(self.pooler(self.encoder(x)[0]))

    after = model.bert.embeddings(tokens["input_ids"], tokens["token_type_ids"]).detach()
    expected = relprop.explain(After().eval(), after, 1).relevance.sum(-1)[0]
    found = lrp_of()(SHORT, 1)
    torch.testing.assert_close(torch.tensor(found.values()), expected, rtol=1e-4, atol=1e-7)


def test_whether_the_first_layer_sees_ones_changes_no_token():
    lrp = lrp_of()
    seen = relprop.text.TokenLRP(lrp.model, TOKENIZER, transformer(first="image"))(LONG, 1)
    torch.testing.assert_close(seen.relevance, lrp(LONG, 1).relevance, rtol=1e-4, atol=1e-7)


def test_a_pair_is_read_as_one_text_of_two_parts():
    result = lrp_of()((SHORT, LONG), 2)
    assert result.tokens[0].count("[SEP]") == 2
    found = TOKENIZER(SHORT, LONG, return_tensors="pt")
    torch.testing.assert_close(result.output, lrp_of().model(**found).logits.detach(), rtol=1e-4, atol=1e-5)
    assert sum(result.values()) == pytest.approx(float(result.score), rel=1e-5)


def test_the_similarity_of_two_texts_is_the_cosine():
    lrp = lrp_of(pooling="mean")
    result = lrp.similarity([SHORT, LONG], "a long film")
    a, b = lrp.embed([SHORT, LONG]), lrp.embed("a long film")
    cosine = torch.cosine_similarity(a, b)
    torch.testing.assert_close(result.score, cosine, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.relevance.sum(1), cosine, rtol=1e-4, atol=1e-5)
    assert result.ledger.gap <= 1e-5
    states = lrp.model(**TOKENIZER(SHORT, return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(a[0], states.mean(0).detach(), rtol=1e-4, atol=1e-5)
    assert result.explained() == "similarity to 'a long film'"
    given = lrp.similarity([SHORT, LONG], b[0])
    assert torch.equal(given.relevance, result.relevance)


def test_the_first_token_as_the_embedding():
    lrp = lrp_of(pooling="cls")
    states = lrp.model(**TOKENIZER(SHORT, return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(lrp.embed(SHORT)[0], states[0].detach(), rtol=1e-4, atol=1e-5)
    result = lrp.similarity(SHORT, LONG)
    assert sum(result.values()) == pytest.approx(float(result.score), rel=1e-4)


def test_similarity_by_hand():
    """a = (3, 4), b = (4, -3): 12/25 and -12/25, which cancel; b = (1, 0): all of 3/5 on the first."""
    a = torch.tensor([[3.0, 4.0]])
    assert Similarity(torch.tensor([4.0, -3.0])).relevance(a, "logit")[0].tolist() == pytest.approx([0.48, -0.48])
    assert Similarity(torch.tensor([1.0, 0.0])).relevance(a, "logit")[0].tolist() == pytest.approx([0.6, 0.0])
    parts = torch.tensor([[[1.0, 4.0], [2.0, 0.0]]])  # of which a is the sum
    assert Similarity(torch.tensor([1.0, 0.0])).relevance(parts, "logit")[0].tolist() == [
        pytest.approx([0.2, 0.0]),
        pytest.approx([0.4, 0.0]),
    ]
    with pytest.raises(TargetError, match=r"this model returns \(1, 2\), and it was given \(1, 3\)"):
        Similarity(torch.ones(3)).relevance(a, "logit")
    with pytest.raises(TargetError, match="an embedding is zero everywhere"):
        Similarity(torch.zeros(2)).relevance(a, "logit")


@pytest.mark.parametrize(
    ("target", "start"), [(Contrast(0, 2), "probability"), (Value(1), "logit"), (lambda y: y[:, 0] - y[:, 1], "logit")]
)
def test_targets_are_those_of_images(target, start):
    result = lrp_of()([SHORT, LONG], target, start=start)
    torch.testing.assert_close(result.relevance.sum(1), result.score, rtol=1e-4, atol=1e-6)
    assert result.ledger.gap <= 1e-5


def test_a_number_is_explained_too():
    model = make(num_labels=1)
    result = relprop.text.explain(model, TOKENIZER, SHORT, Value())
    assert sum(result.values()) == pytest.approx(model(**TOKENIZER(SHORT, return_tensors="pt")).logits.item(), rel=1e-4)
