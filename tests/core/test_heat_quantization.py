from __future__ import annotations

import pytest
import torch
from torch import tensor

from relprop import quantize
from relprop.errors import UsageError


def test_equation_floors_to_levels_of_equal_width():
    heat = tensor([[0.0, 0.9, 1.0, 1.99, 2.0, 7.99, 8.0]], dtype=torch.float64)
    assert quantize(heat, 8).tolist() == [[0, 0, 1, 1, 2, 7, 8]]  # the maximum alone on the ninth level


def test_equation_of_a_signed_map():
    heat = tensor([[-4.0, -1.5, 0.0, 2.5, 4.0]], dtype=torch.float64)
    assert quantize(heat, 4).tolist() == [[-4, -2, 0, 2, 4]]


def test_release_falls_to_the_edge_below_among_q():
    heat = tensor([[0.0, 0.99, 1.0, 6.5, 6.99, 7.0]], dtype=torch.float64)
    assert quantize(heat, 8, edges="release").tolist() == [[0, 0, 1, 6, 6, 7]]


def test_numbers_of_values():
    heat = torch.linspace(-3, 5, 10_000, dtype=torch.float64).view(100, 100)
    assert len(quantize(heat, 8).unique()) == 9
    assert len(quantize(heat, 8, edges="release").unique()) == 8


@pytest.mark.parametrize("edges", ["equation", "release"])
def test_a_constant_map_returns_unchanged(edges):
    heat = torch.full((2, 3, 3), 0.1)
    assert torch.equal(quantize(heat, 8, edges=edges), heat)


def test_a_map_whose_range_is_below_rounding_keeps_its_values_in_range():
    heat = tensor([[1.0, 1.0 + 2.0**-23]])
    for edges in ("equation", "release"):
        found = quantize(heat, 8, edges=edges)
        assert found.isfinite().all()
        assert found.min() >= heat.min()
        assert found.max() <= heat.max()


@pytest.mark.parametrize("edges", ["equation", "release"])
def test_quantizing_again_changes_nothing(edges):
    heat = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(0))
    once = quantize(heat, 8, edges=edges)
    assert torch.equal(quantize(once, 8, edges=edges), once)


def test_each_map_has_its_own_range_and_none_is_changed_in_place():
    heat = torch.stack([tensor([[0.0, 0.6], [1.0, 0.2]]), 10 * tensor([[0.0, 0.6], [1.0, 0.2]])])
    before = heat.clone()
    found = quantize(heat, 2)
    assert found.tolist() == [[[0, 0.5], [1, 0]], [[0, 5], [10, 0]]]
    assert torch.equal(heat, before)


def test_the_order_of_pixels_is_that_of_the_map():
    heat = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = quantize(heat).flatten()[heat.flatten().argsort()]
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize(
    ("levels", "edges", "message"),
    [
        (0, "equation", "levels must be at least 1 for edges='equation', not 0"),
        (1, "release", "levels must be at least 2 for edges='release', not 1"),
        (8, "nearest", "edges must be 'equation' or 'release', not 'nearest'"),
    ],
)
def test_what_cannot_be_is_refused(levels, edges, message):
    with pytest.raises(UsageError, match=message):
        quantize(torch.rand(2, 2), levels, edges=edges)
