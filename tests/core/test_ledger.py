"""The book's arithmetic on books small enough to check, and on a network with a rule that leaks."""

from __future__ import annotations

import pytest
import torch
from torch import nn, tensor

import relprop
from relprop.core.backward.ledger import Entry, Ledger
from relprop.core.rules import pass_through
from relprop.errors import ConservationError


def entry(name, received, sent, *, conserves=True, magnitude=None, outside=0.0):
    received, sent = (tensor(value, dtype=torch.float64) for value in (received, sent))
    magnitude = received.abs() if magnitude is None else tensor(magnitude, dtype=torch.float64)
    return Entry(name, "conv", "z+", conserves, received, sent, magnitude, outside)


def book(*entries, start=(1.0, 2.0), end=(1.0, 2.0)):
    return Ledger(entries, tensor(start, dtype=torch.float64), tensor(end, dtype=torch.float64))


def test_a_balanced_book_has_no_gap():
    ledger = book(entry("a", [1.0, 2.0], [1.0, 2.0]), entry("b", [1.0, 2.0], [1.0, 2.0]))
    assert (ledger.gap, ledger.absorbed) == (0, 0)
    assert ledger.balances(0.0)


def test_a_leak_is_relative_and_of_either_sign():
    ledger = book(entry("a", [1.0, 2.0], [1.25, 2.0]), entry("b", [1.25, 2.0], [1.25, 1.5]))
    assert ledger.gaps.tolist() == [[0.25, 0], [0, 0.25]]
    assert ledger.gap == 0.25
    assert ledger.absorbed == 0


def test_leaks_that_add_up_are_seen_in_the_gap():
    ledger = book(entry("a", [1.0, 2.0], [0.9, 2.0]), entry("b", [0.9, 2.0], [0.8, 2.0]))
    assert ledger.gap == pytest.approx(0.2, rel=1e-12)


def test_what_a_rule_absorbs_is_no_leak():
    ledger = book(entry("a", [1.0, 2.0], [0.5, 1.5], conserves=False), entry("b", [0.5, 1.5], [0.5, 1.5]))
    assert ledger.gap == 0
    assert ledger.absorbed == 0.5
    assert ledger.absorptions.tolist() == [[0.5, 0.5], [0, 0]]


def test_what_reaches_blind_positions_is_absorbed_and_the_rest_must_be_sent():
    ledger = book(entry("a", [1.0, 2.0], [0.75, 2.0], outside=tensor([0.25, 0.0], dtype=torch.float64)))
    assert ledger.gap == 0
    assert ledger.absorbed == 0.25


def test_signed_relevance_is_judged_against_its_magnitude():
    ledger = book(entry("a", [1.0, 2.0], [1.1, 2.0], magnitude=[100.0, 2.0]))
    assert ledger.gap == pytest.approx(1e-3, rel=1e-9)


def test_a_step_that_receives_little_is_judged_against_the_start():
    ledger = book(entry("a", [1e-9, 0.0], [0.0, 0.0]))
    assert ledger.gap == pytest.approx(1e-9)


def test_nan_does_not_balance():
    ledger = book(entry("a", [float("nan"), 2.0], [1.0, 2.0]))
    assert not ledger.balances(1e9)
    with pytest.raises(ConservationError, match="relevance leaks at a"):
        ledger.require_balance()


def test_merging_books_keeps_samples_row_by_row():
    one = book(entry("a", [1.0, 2.0], [1.0, 2.0]))
    two = book(entry("a", [3.0, 4.0], [3.0, 3.0]), start=(3.0, 4.0), end=(3.0, 3.0))
    merged = Ledger.stack([one, two])
    assert merged.start.tolist() == [1, 3, 2, 4]
    assert merged.leaks.tolist() == [[0, 0, 0, 1]]


# ---- a rule that leaks


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3)))


@relprop.rule(name="leaky")
def leaky(step, relevance):
    return 0.5 * relevance


@relprop.rule(name="leaky in place")
def leaky_in_place(step, relevance):
    return relevance.mul_(0.5)


@relprop.rule(name="honest", conserves=False)
def honest(step, relevance):
    return 0.5 * relevance


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rule", [leaky, leaky_in_place], ids=["new tensor", "in place"])
def test_a_leaky_rule_is_caught(rule):
    result = relprop.explain(Net().eval(), X, composite=relprop.paper().override(names={"relu": rule}))
    assert result.ledger.gap == pytest.approx(0.5, rel=1e-5)
    assert not result.ledger.balances()
    assert result.relevance.sum((1, 2, 3)).tolist() == pytest.approx((result.score / 2).tolist(), rel=1e-5)


def test_a_rule_may_write_to_its_relevance_without_harm_to_others():
    result = relprop.LRP(
        Net().eval(), relprop.paper().override(names={"relu": leaky_in_place}), keep=["relu", "conv1"]
    )(X)
    assert result.at("relu").sum((1, 2, 3)).tolist() == pytest.approx(result.score.tolist(), rel=1e-5)
    assert result.at("conv1").sum((1, 2, 3)).tolist() == pytest.approx((result.score / 2).tolist(), rel=1e-5)


def test_a_rule_that_says_so_absorbs():
    result = relprop.explain(Net().eval(), X, composite=relprop.paper().override(names={"relu": honest}))
    assert result.ledger.gap < 1e-6
    assert result.ledger.absorbed == pytest.approx(0.5, rel=1e-5)


def test_strict_mode_names_the_first_bad_layer():
    composite = relprop.paper().override(names={"relu": leaky, "conv1": leaky_rule_of(pass_through)})
    with pytest.raises(ConservationError, match=r"relevance leaks at relu \(relu, rule leaky\): 5\.00e-01 of it there"):
        relprop.LRP(Net().eval(), composite, strict=True)(X)


def leaky_rule_of(_):
    @relprop.rule(name="lost")
    def lost(step, relevance):
        return torch.zeros(step.shapes[0])

    return lost


def test_strict_mode_is_silent_where_the_books_balance():
    assert relprop.LRP(Net().eval(), strict=True, rtol=1e-6)(X).ledger.balances(1e-6)


def test_without_a_ledger_the_relevance_is_the_same():
    with_book, without = relprop.LRP(Net().eval())(X), relprop.LRP(Net().eval(), ledger=False)(X)
    assert without.ledger is None
    assert torch.equal(with_book.relevance, without.relevance)


def test_the_release_absorbs_by_epsilon_and_says_so():
    result = relprop.explain(Net().eval(), X, composite=relprop.released(eps=1e-2))
    assert result.ledger.gap < 1e-6
    assert result.ledger.absorbed > 1e-3
    total = result.relevance.double().sum((1, 2, 3)) + result.ledger.absorptions.sum(0)
    torch.testing.assert_close(total, result.score.double(), rtol=1e-5, atol=0)


def test_the_table_names_every_weighted_layer():
    table = relprop.explain(Net().eval(), X).ledger.table()
    for name in ("conv1", "conv2", "fc", "largest leak"):
        assert name in table
    assert "relu@1" in relprop.explain(Net().eval(), X).ledger.table(by="step")


@pytest.mark.parametrize(
    ("start", "end", "share", "said"),
    [
        (1.0, 1.0, 0.0, "the score is conserved"),
        (1.0, 0.25, 0.75, "rules absorbed 75 % of it"),
        (0.5, 0.75, -0.5, "rules created 50 % of it"),
        (1.0, -19.0, 20.0, "rules absorbed 20 times as much"),
        (1.0, float("nan"), None, "the relevance is not finite"),
    ],
)
def test_no_leak_and_a_conserved_score_are_two_statements(start, end, share, said):
    first, last = (torch.tensor([value], dtype=torch.float64) for value in (start, end))
    said_of = Ledger((Entry("fc", "linear", "epsilon", False, first, last, first.abs()),), first, last).conservation()
    assert said in said_of.score_text
    assert said_of.conserves_score is (start == end)
    if share is not None:
        assert said_of.absorbed == pytest.approx(share)
        assert not said_of.leaks()  # the rule says that it absorbs
        assert said_of.leak_text().startswith("no leak: at most 0.0e+00")


def test_the_worst_of_several_explanations_is_told():
    start = torch.tensor([1.0, 1.0], dtype=torch.float64)
    end = torch.tensor([1.2, 0.2], dtype=torch.float64)
    ledger = Ledger((Entry("fc", "linear", "epsilon", False, start, end, start),), start, end)
    assert ledger.conservation().absorbed == pytest.approx(0.8)
    assert ledger.conservation(start).conserves_score
