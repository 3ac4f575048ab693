from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relprop.data import Sample, balanced
from relprop.errors import DataError


def deck(counts: dict[int, int]) -> list[Sample]:
    return [
        Sample(f"{label}/{at}", label) for at in range(max(counts.values())) for label in counts if at < counts[label]
    ]


def spread(samples) -> dict[int, int]:
    return dict(Counter(sample.label for sample in samples))


def test_equally_many_of_each_class():
    samples = deck({0: 5, 1: 9, 2: 7})
    assert spread(balanced(samples, 6)) == {0: 2, 1: 2, 2: 2}


def test_a_remainder_goes_to_classes_chosen_by_the_seed():
    samples = deck({0: 5, 1: 9, 2: 7})
    assert sorted(spread(balanced(samples, 7)).values()) == [2, 2, 3]
    lucky = {
        max(spread(chosen), key=spread(chosen).__getitem__)
        for seed in range(20)
        for chosen in [balanced(samples, 7, seed)]
    }
    assert lucky == {0, 1, 2}


def test_what_a_small_class_cannot_give_is_spread_over_the_others():
    assert spread(balanced(deck({0: 1, 1: 9, 2: 9}), 9)) == {0: 1, 1: 4, 2: 4}


def test_the_choice_depends_on_the_seed_and_on_nothing_else():
    samples = deck({0: 50, 1: 50})
    chosen = balanced(samples, 10, 3)
    assert chosen == balanced(samples, 10, 3)
    assert chosen != balanced(samples, 10, 4)
    assert set(chosen) == set(balanced(samples[::-1], 10, 3))  # not on the order of the list
    assert set(chosen) <= set(balanced(samples, 20, 3))  # more samples keep the first ones
    assert list(chosen) == [sample for sample in samples if sample in chosen]


def test_none_takes_all_and_too_many_is_refused():
    samples = deck({0: 2})
    assert balanced(samples, None) == tuple(samples)
    with pytest.raises(DataError, match="3 samples were asked for; the data set holds 2: ask for 1 to 2"):
        balanced(samples, 3)
    with pytest.raises(DataError, match="0 samples were asked for"):
        balanced(samples, 0)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(st.integers(0, 9), st.integers(1, 12), min_size=1), st.data(), st.integers(0, 5))
def test_classes_differ_by_at_most_one_unless_exhausted(counts, data, seed):
    n = data.draw(st.integers(1, sum(counts.values())))
    chosen = balanced(deck(counts), n, seed)
    got = {label: spread(chosen).get(label, 0) for label in counts}
    assert len(chosen) == n == sum(got.values())
    most = max(got.values())
    assert all(got[label] >= most - 1 or got[label] == counts[label] for label in counts)
