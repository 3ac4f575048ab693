"""Operations without a rule are explained as what torch makes them of."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo  # which torch would import within a test, where its objects are looked at for garbage
import torch.nn.functional as F
from torch import nn

import relprop
from relprop.core.capture import parts
from relprop.errors import CaptureError, UnsupportedOpError


class Between(nn.Module):
    """A function between a convolution (N, 4, 6, 6) with a gate (N, 4, 1, 1) and the classifier."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv, self.gate, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3)
        self.double().eval()

    def forward(self, x):
        h = self.conv(x).relu() + 0.1
        gate = self.gate(h.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.fc(self.function(h, gate).mean((2, 3)))


X = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GRID = F.affine_grid(torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3), [2, 4, 6, 6], align_corners=False)

SAME = {
    "expand_as": (lambda h, g: h * g.expand_as(h), lambda h, g: h * g),
    "broadcast_tensors": (lambda h, g: torch.mul(*torch.broadcast_tensors(h, g)), lambda h, g: h * g),
    "tile": (lambda h, g: h * g.tile(1, 1, 6, 6), lambda h, g: h * g),
    "type_as": (lambda h, g: h.type_as(g) * g, lambda h, g: h * g),
    "view_as": (lambda h, g: h + h.flatten(1).view_as(h), lambda h, g: h + h.flatten(1).view(h.shape)),
    "swapdims": (lambda h, g: h.swapdims(2, 3), lambda h, g: h.transpose(2, 3)),
    "hstack": (lambda h, g: torch.hstack([h, h * g])[:, 2:6], lambda h, g: torch.cat([h, h * g], 1)[:, 2:6]),
    "true_divide": (lambda h, g: h.true_divide(2), lambda h, g: h / 2),
    "lerp": (lambda h, g: torch.lerp(h, h * g, 0.25), lambda h, g: h + 0.25 * (h * g - h)),
    "addcdiv": (lambda h, g: torch.addcdiv(h, h, g), lambda h, g: h + h / g),
    "var": (
        lambda h, g: h + h.var((2, 3), keepdim=True),
        lambda h, g: h + (h - h.mean((2, 3), keepdim=True)).square().sum((2, 3), keepdim=True) / 35,
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_an_operation_is_explained_as_its_parts(name):
    ours, theirs = (relprop.explain(Between(function), X) for function in SAME[name])
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-9, atol=1e-12)


CONSERVE = {
    "cosine_similarity": lambda h, g: h * torch.cosine_similarity(h, g.expand(h.shape), 1)[:, None],
    "normalize": lambda h, g: F.normalize(h, dim=1),
    "logsumexp": lambda h, g: h + h.logsumexp((2, 3), keepdim=True),
    "logaddexp": torch.logaddexp,
    "grid_sample": lambda h, g: F.grid_sample(h, GRID, align_corners=False) * g,
    "tensordot": lambda h, g: torch.tensordot(h, torch.eye(4, dtype=h.dtype), ([1], [0])).permute(0, 3, 1, 2),
    "float_power": lambda h, g: h.float_power(2) * g,
    "var_mean": lambda h, g: torch.var_mean(h, (2, 3), correction=0, keepdim=True)[0] * h,
}


@pytest.mark.parametrize("name", CONSERVE)
def test_relevance_through_the_parts_is_conserved(name):
    model = Between(CONSERVE[name])
    result = relprop.explain(model, X)
    torch.testing.assert_close(result.logits, model(X).detach())
    assert result.ledger.gap <= 1e-12
    alone = relprop.explain(Between(CONSERVE[name] if name != "grid_sample" else lambda h, g: F.grid_sample(
        h, GRID[:1], align_corners=False) * g), X[:1])  # fmt: skip
    torch.testing.assert_close(alone.relevance, result.relevance[:1], rtol=1e-9, atol=1e-12)


def test_what_an_operation_is_made_of_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(parts, "_PARTS", {})
    found = parts._parts_of
    monkeypatch.setattr(parts, "_parts_of", lambda func, *call: asked.append(func) or found(func, *call))
    lrp = relprop.LRP(Between(lambda h, g: torch.logaddexp(h, g) if h.sum() > 0 else h))
    once = lrp(X)
    assert [*map(str, asked[:2])] == ["aten.gt.Scalar", "aten.logaddexp.default"]
    first = len(asked)
    assert torch.equal(lrp(X).relevance, once.relevance)
    assert len(asked) == first
    lrp(X[:1])  # of another shape
    assert len(asked) > first


def test_grid_samples_at_the_pixels_are_the_pixels():
    ours = relprop.explain(Between(CONSERVE["grid_sample"]), X)
    theirs = relprop.explain(Between(lambda h, g: h * g), X)
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-6, atol=1e-9)


def test_a_rule_of_ones_own_for_such_an_operation_is_used():
    seen = []

    @relprop.rule(several=True)
    def swapped(step, relevance):
        seen.append(step.node.op)
        return (relevance.transpose(2, 3),)

    model = Between(lambda h, g: h.swapdims(2, 3))
    result = relprop.explain(model, X, composite=relprop.paper().override(rules={"swapdims": swapped}))
    assert seen == ["swapdims"]
    torch.testing.assert_close(result.relevance, relprop.explain(model, X).relevance)


def test_an_operation_whose_parts_have_no_rule_is_named_itself():
    def odd(h, g):
        return torch.hypot(torch.lgamma(torch.cumprod(h, 2).sigmoid() + 1), h * g)

    with pytest.raises(UnsupportedOpError) as caught:
        relprop.explain(Between(odd), X)
    for words in (
        "no rule for 'lgamma' at lgamma (test_taken_apart.py:",
        "no rule for 'hypot' of two values that both depend on the image at hypot",
        "@rule('lgamma')",
    ):
        assert words in str(caught.value)


def test_an_operation_in_place_is_taken_apart_as_without_writing():
    functions = (lambda h, g: torch.lerp(h, h.flip(1), 0.25), lambda h, g: h.clone().lerp_(h.flip(1), 0.25))
    first, second = (relprop.explain(Between(function), X) for function in functions)
    assert torch.equal(first.relevance, second.relevance)
    assert first.relevance.any()


def test_a_quantile_conserves():
    result = relprop.explain(Between(lambda h, g: h + h.quantile(0.4, 1, True)), X)
    assert result.ledger.gap < 1e-12
    torch.testing.assert_close(result.heatmap.sum((1, 2)), result.score, rtol=1e-9, atol=0)


def test_a_model_that_returns_other_rows_than_images_is_refused():
    class Doubles(Between):
        def forward(self, x):
            scores = super().forward(x)
            return torch.cat([scores, scores])

    with pytest.raises(CaptureError, match=r"returns \(2, 3\) for 1 image.*one row of scores for each"):
        relprop.explain(Doubles(lambda h, g: h), X[:1])
