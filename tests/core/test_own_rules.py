"""Rules of users' own: what they may change, and what keeps its meaning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from relprop.core.rules import DEFAULTS, OWN
from relprop.errors import UnsupportedOpError, UsageError


class Products(nn.Module):
    """A step that relprop has no rule for, before a classifier."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.head(x.flatten(1).abs().logcumsumexp(1))


@pytest.fixture
def own():
    before = dict(OWN)
    yield OWN
    OWN.clear()
    OWN.update(before)


@pytest.mark.parametrize("op", ["conv", "linear", "relu", "max_pool"])
def test_a_rule_of_ones_own_does_not_rewrite_a_preset(op):
    before = dict(DEFAULTS)
    with pytest.raises(UsageError, match=rf"paper\(\)\.override\(rules=\{{'{op}': half\}}\)"):

        @relprop.rule(op)
        def half(step, relevance):
            return relevance / 2

    assert before == DEFAULTS


def test_a_rule_for_a_new_operation_serves_every_composite_and_is_named(own):
    model = Products().double()
    lrp, x = relprop.LRP(model), torch.rand(2, 1, 2, 3, dtype=torch.float64)
    with pytest.raises(UnsupportedOpError, match="logcumsumexp"):
        lrp(x)

    @relprop.rule("logcumsumexp", reads=())
    def pass_on(step, relevance):
        return relevance

    result = lrp(x)
    assert result.composite == "paper (logcumsumexp: pass-on)"
    torch.testing.assert_close(result.heatmap.sum((1, 2)), result.score, rtol=1e-12, atol=0)
    plain = relprop.explain(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double(), x)
    assert plain.composite == "paper"

    @relprop.rule("logcumsumexp", reads=(), conserves=False)
    def take_half(step, relevance):
        return relevance / 2

    again = lrp(x)
    assert again.composite == "paper (logcumsumexp: take-half)"
    torch.testing.assert_close(again.heatmap, result.heatmap / 2)


def test_a_composite_may_still_choose_otherwise(own):
    @relprop.rule("logcumsumexp", reads=())
    def nothing(step, relevance):
        return relevance * 0

    @relprop.rule(reads=())
    def pass_on(step, relevance):
        return relevance

    chosen = relprop.paper().override(rules={"logcumsumexp": pass_on})
    result = relprop.explain(Products(), torch.rand(1, 1, 2, 3), composite=chosen)
    assert result.composite == "paper*"
    assert result.ledger.gap <= 1e-6
