"""Derivatives of relevance against finite differences: every block and every head of `core_nets`."""

from __future__ import annotations

import pytest
from core_slopes import require_slopes

from core_nets import BLOCKS, HEADS, Network, images


@pytest.mark.parametrize("block", sorted({*BLOCKS} - {"NoGrad"}))  # whose derivative the model keeps back
def test_blocks_against_finite_differences(block):
    require_slopes(Network((block,), "mean", seed=1), images(2), target=1)


@pytest.mark.parametrize("head", HEADS)
def test_heads_against_finite_differences(head):
    require_slopes(Network(("Basic",), head, seed=1), images(2), target=1)
