"""A run is compared with the former one, call by call: what is not as it was is noticed, the rest not analysed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from relprop.core.capture.calls import facts_of
from tiny import Tiny, images

X = images(3)


class Switches(Tiny):
    """The same operations in the same order, with something else in one of them."""

    way = "plain"

    def __init__(self):
        super().__init__()
        self.act, self.mask = nn.ReLU(inplace=True), torch.linspace(0.5, 2, 4).view(1, 4, 1, 1).double()
        self.weights = nn.Parameter(self.mask * 0.7)
        nn.init.uniform_(self.fc.weight, 0.1, 1)
        self.eval()

    def features(self, x):
        way = self.way
        a = self.conv1(x).sigmoid()
        b = a.flip(3)
        c = (a if way == "wired otherwise" else b) * 1.5
        act = self.act if way == "another module" else self.relu
        h = act(self.bn1(c))
        h = h * {"a tensor": self.mask, "a weight": self.weights, "a number": 3.0}.get(way, 0.5)
        if way == "written in place":
            b.mul_(-1.0)
        elif way == "written through a view":
            b[:, :2].mul_(3.0)
        h = torch.conv2d(h, self.conv2.weight, None, 1, 1)
        return torch.cat([h, h] if way == "twice" else [h, b], 1).relu()[:, 2:6].mean((2, 3))


WAYS = ("wired otherwise", "another module", "a tensor", "a weight", "a number", "written in place",
        "written through a view", "twice")  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_is_not_as_in_the_last_run_is_noticed(way):
    model, fresh, x = Switches().double(), Switches().double(), X.double()
    lrp = relprop.LRP(model)
    for now in ("plain", "plain", way, way, "plain", way):
        model.way = fresh.way = now
        ours, theirs = lrp(x), relprop.explain(fresh, x)
        assert torch.equal(ours.relevance, theirs.relevance)
        assert [entry.name for entry in ours.ledger.entries] == [entry.name for entry in theirs.ledger.entries]
        assert "act" in lrp.graph(x).modules or way != now or way != "another module"


def test_calls_of_the_last_run_are_compared_and_not_analysed_anew(monkeypatch):
    lrp = relprop.LRP(Switches().double())
    first = lrp(X.double())
    analysed = []
    monkeypatch.setattr("relprop.core.capture.recorder.facts_of", lambda func: analysed.append(func) or facts_of(func))
    assert torch.equal(lrp(X.double()).relevance, first.relevance)
    assert not analysed
    lrp(X[:1].double())
    assert analysed


def test_kinds_of_run_do_not_pile_up(monkeypatch):
    class Reads(Tiny):
        def features(self, x):
            return super().features(x) * float(x.mean())

    lrp = relprop.LRP(Reads())
    monkeypatch.setattr("relprop.core.backward.plan.RUNS", 2)
    for k in range(4):
        lrp(X[:1] + k)
    assert len(lrp._kinds) == 2
