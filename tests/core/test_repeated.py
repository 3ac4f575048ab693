"""A run that departs from the former one at any place is explained as if there had been no former one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import relprop


class Steps(nn.Module):
    """Convolutions, views, writes in place and through views, joins; `change` happens before step `at`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)])
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("shift", torch.linspace(0.1, 0.4, 4).reshape(1, 4, 1, 1))
        self.at, self.change, self.held = -1, None, []
        self.eval()

    def steps(self):
        a, b, c, d = self.convs

        def keeps_views(h):
            self.held += [h.view(h.shape[0], 4, -1), h[:, :2]]
            return h

        def writes_through_a_view(h):
            h[:, 1:3] *= 0.5
            return h

        def reads_an_older_view(h):
            flat, part = self.held
            part += 0.25
            return h + flat.view(h.shape)

        def splits(h):
            first, second = h.chunk(2, 1)
            return torch.cat([second.relu(), first], 1)

        return [
            lambda h: h.repeat(1, 2, 1, 1)[:, :4],
            a,
            lambda h: h.relu_(),
            keeps_views,
            lambda h: self.norm(b(h)).add_(h).relu_(),
            writes_through_a_view,
            reads_an_older_view,
            lambda h: h.contiguous() + self.shift,
            splits,
            lambda h: c(h).relu(),
            lambda h: d(h).mul_(torch.sigmoid(h.mean((2, 3), keepdim=True))).add_(h),
            lambda h: h.mean((2, 3)),
            self.fc,
        ]

    def forward(self, x):
        self.held, h = [], x
        for number, step in enumerate(self.steps()):
            if number == self.at:
                h = self.change(h)
            h = step(h)
        self.held = []
        return h


def in_place(h):
    return h.mul_(1.5).add_(0.1)


CHANGES = {
    "another call": lambda h: h * 1.5,
    "a write": in_place,
    "a write through a view": lambda h: (h[:, :1].add_(0.5), h)[1],
    "a copy": lambda h: h.clone(),
    "a view": lambda h: h.view(h.shape),
    "a constant": lambda h: h + torch.ones(h.shape[1:]),
    "a parallel way": lambda h: h + h.detach().relu(),
}
X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def assert_equal(ours, theirs):
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.relevance, theirs.relevance)
    assert [(e.name, e.rule) for e in ours.ledger.entries] == [(e.name, e.rule) for e in theirs.ledger.entries]
    assert torch.equal(ours.ledger.end, theirs.ledger.end)


@pytest.fixture(scope="module")
def plain():
    return relprop.LRP(Steps(), keep="all")(X)


PLACES = len(Steps().steps())
# One change at each place, every kind of change at one or two of them: a view before the call of `view` and a write
# through a view before another one among them. The slow run makes each change at each place.
QUICK = [(name, range(-number % len(CHANGES), PLACES, len(CHANGES))) for number, name in enumerate(CHANGES)]


@pytest.mark.parametrize(
    ("change", "places"),
    [*QUICK, *(pytest.param(name, range(PLACES), marks=pytest.mark.slow) for name in CHANGES)],
    ids=[*CHANGES, *(f"{name} anywhere" for name in CHANGES)],
)
def test_a_run_may_depart_from_the_former_one_at_any_place(change, places, plain):
    model = Steps()
    lrp = relprop.LRP(model, keep="all")
    for at in places:
        model.at, model.change = -1, None
        assert_equal(lrp(X), plain)
        model.at, model.change = at, CHANGES[change]
        expected = relprop.LRP(model, keep="all")(X)
        for _ in range(2):  # the second follows a run that is like it
            assert_equal(lrp(X), expected)


@pytest.mark.slow  # to and fro between two kinds: above, and in `test_recorded_again`
def test_runs_of_one_kind_in_any_order():
    model = Steps()
    lrp = relprop.LRP(model)
    ways = list(itertools.product((2, 5, 9), (CHANGES["a write through a view"], CHANGES["a copy"])))
    expected = []
    for model.at, model.change in ways:
        expected.append(relprop.LRP(model)(X))
    order = torch.randperm(4 * len(ways), generator=torch.Generator().manual_seed(2)).tolist()
    for number in order:
        model.at, model.change = ways[number % len(ways)]
        assert_equal(lrp(X), expected[number % len(ways)])


def test_a_tensor_is_not_taken_for_the_number_that_it_is_equal_to():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.by = nn.Conv2d(3, 2, 1), 2.0

        def forward(self, x):
            return torch.clamp(self.conv(x), 0, self.by).mean((2, 3))

    model = Scaled().eval()
    lrp = relprop.LRP(model)
    for by in (2.0, 2, True, 2.0, 3.0):
        model.by = by
        assert_equal(lrp(X), relprop.LRP(model)(X))


class Flat(nn.Module):
    """Writes through a view that images in the channels-last format do not have, so it is run in row-major order."""

    def __init__(self, writes):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.writes = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), writes
        self.eval()

    def forward(self, x):
        h = self.conv(x)
        flat = h.view(len(x), -1)
        flat.mul_(torch.linspace(0.5, 2, flat.shape[1])) if self.writes else h.mul_(0.5)
        return self.fc(h.relu().mean((2, 3)) + flat.relu().mean(1, keepdim=True))


@pytest.mark.parametrize("writes", [True, False], ids=["to the view", "to its base"])
def test_a_view_that_had_to_be_copied_is_not_written_to(writes):
    model = Flat(writes)
    lrp = relprop.LRP(model)
    expected = relprop.LRP(model)(X)
    torch.testing.assert_close(expected.logits, model(X).detach())
    for _ in range(3):
        assert_equal(lrp(X), expected)
