"""Schedules by hand and by property; fills by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_networks import Colours
from torch import tensor

from relprop.errors import UsageError
from relprop.metrics import fill_picture, pixel_counts, row_major, schedule, shuffled, together


@pytest.mark.parametrize(
    ("pixels", "step", "expected"),
    [
        (6, 2, [2, 4, 6]),
        (7, 3, [3, 6, 7]),
        (4, 9, [4]),
        (8, 0.25, [2, 4, 6, 8]),
        (10, 0.01, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_counts_end_with_every_pixel(pixels, step, expected):
    assert pixel_counts(pixels, step).tolist() == expected


def test_counts_at_the_papers_size_make_101_steps():
    counts = pixel_counts(224 * 224, 500)
    assert len(counts) == 101
    assert counts[[0, 99, 100]].tolist() == [500, 50000, 50176]


@pytest.mark.parametrize("step", [0, -1, float("inf"), float("nan")])
def test_a_step_must_be_positive(step):
    with pytest.raises(UsageError, match="step must be a positive number of pixels"):
        pixel_counts(100, step)


HEAT = tensor([[[3.0, 1.0, 3.0], [2.0, 2.0, 0.0]]])  # ranks 0 to 5: 3 3 2 2 1 0


def test_together_takes_thresholds_at_ranks_2_4_and_the_last():
    # thresholds 2, 1, 0: the first step changes four pixels though its count is two
    assert schedule(HEAT, tensor([2, 4, 6]), together).tolist() == [[[1, 2, 1], [1, 1, 3]]]


def test_row_major_gives_ties_to_the_earlier_pixel():
    assert schedule(HEAT, tensor([1, 3, 6]), row_major).tolist() == [[[1, 3, 2], [2, 3, 3]]]


def test_shuffled_parts_ties_at_random_and_nothing_else():
    found = [schedule(HEAT, tensor([1, 2, 3, 4, 5, 6]), shuffled(tensor([key])))[0].tolist() for key in range(40)]
    for (a, fifth, b), (c, d, sixth) in found:
        assert (fifth, sixth) == (5, 6)
        assert {a, b} == {1, 2}
        assert {c, d} == {3, 4}
    assert len({str(one) for one in found}) == 4  # two orders of two tied pairs


@st.composite
def maps(draw):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)))
    levels = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**20))
    return torch.randint(-levels, levels, shape, generator=torch.Generator().manual_seed(seed)).float()


@settings(max_examples=60, deadline=None)
@given(heat=maps(), step=st.integers(1, 60), key=st.integers(-(2**63), 2**63 - 1))
def test_every_pixel_changes_once_and_counts_are_exact_when_shuffled(heat, step, key):
    counts = pixel_counts(heat[0].numel(), step)
    keys = torch.full((len(heat),), key, dtype=torch.int64) ^ torch.arange(len(heat))
    steps = schedule(heat, counts, shuffled(keys))
    for values, row in zip(heat.flatten(1), steps.flatten(1), strict=True):
        changed = [int((row <= k).sum()) for k in range(1, len(counts) + 1)]
        assert changed == counts.tolist()
        order = row[values.argsort(descending=True)]
        for k in range(1, int(row.max()) + 1):  # whatever changed is at least as relevant as what did not
            assert not (order > k).any() or values[row <= k].min() >= values[row > k].max()
    alone = [schedule(heat[n : n + 1], counts, shuffled(keys[n : n + 1])) for n in range(len(heat))]
    assert torch.equal(torch.cat(alone), steps)  # the batch has no say


@settings(max_examples=60, deadline=None)
@given(heat=maps(), step=st.integers(1, 60))
def test_together_never_parts_a_tie_and_changes_more_than_its_count(heat, step):
    counts = pixel_counts(heat[0].numel(), step)
    steps = schedule(heat, counts, together)
    for values, row in zip(heat.flatten(1), steps.flatten(1), strict=True):
        assert all(len(row[values == v].unique()) == 1 for v in values.unique())
        for k, count in enumerate(counts.tolist(), 1):
            assert int((row <= k).sum()) >= min(count + 1, len(row))
        assert 1 <= int(row.min()) <= int(row.max()) <= len(counts)


def test_black_is_zero_in_colour_space():
    black = fill_picture("black", torch.randn(2, 2, 4, 4), preprocess=Colours([0.5, 0.2], [0.25, 0.1]))
    assert black.flatten().tolist() == [-2.0, -2.0]
    given_black = fill_picture("black", torch.randn(2, 2, 4, 4), black=tensor([-2.0, -3.0]))
    assert given_black.flatten().tolist() == [-2.0, -3.0]


def test_mean_is_each_pictures_own_colour():
    x = torch.stack([torch.full((3, 4, 4), 2.0), torch.full((3, 4, 4), -1.0)])
    assert torch.equal(fill_picture("mean", x).expand(x.shape), x)


def test_blur_keeps_a_plain_picture_and_spreads_a_dot_evenly_to_all_sides():
    plain = torch.full((1, 3, 30, 30), 0.7)
    assert torch.allclose(fill_picture("blur", plain), plain, atol=1e-6)
    dot = torch.zeros(1, 1, 31, 31)
    dot[..., 15, 15] = 1
    found = fill_picture("blur", dot)[0, 0]
    assert found.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(found, found.flip(0), atol=1e-7)
    assert torch.allclose(found, found.T, atol=1e-7)
    rows = (torch.arange(31) - 15.0) ** 2
    assert (found.sum(1) * rows).sum().item() == pytest.approx(
        3.1**2, rel=0.05
    )  # variance: a tenth of the side, squared


def test_noise_belongs_to_the_picture_and_the_seed():
    colours, x = Colours([0.0], [1.0]), torch.randn(3, 1, 5, 5)
    noise = fill_picture("noise", x, preprocess=colours)
    assert 0 <= noise.min() < noise.max() < 1
    assert torch.equal(fill_picture("noise", x[1:2], preprocess=colours), noise[1:2])
    assert not torch.equal(fill_picture("noise", x, preprocess=colours, seed=1), noise)


def test_a_colour_needs_to_know_how_the_network_sees_it():
    with pytest.raises(UsageError, match=r"a black fill is a colour in \[0, 1\].*pass preprocess=.*blur or mean"):
        fill_picture("black", torch.zeros(1, 3, 4, 4))
    with pytest.raises(UsageError, match="does not fit inputs"):
        fill_picture("black", torch.zeros(1, 3, 4, 4), black=torch.zeros(2))
