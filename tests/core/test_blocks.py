"""Every block and every head of `core_nets` conserves, in a batch as alone."""

from __future__ import annotations

import pytest

from core_balance import VARIANTS, check
from core_nets import BLOCKS, HEADS, Network


# in the quick run two of the four variants of the paper, which differ in both options
@pytest.mark.parametrize(
    "variants", [VARIANTS[::3], pytest.param(VARIANTS[1:3], marks=pytest.mark.slow)], ids=["i and iv", "ii and iii"]
)
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_conserves(block, variants):
    check(Network((block,), "mean", seed=3), variants)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_conserves(head):
    check(Network(("Basic", "PaddedShortcut"), head, seed=4), [("ratio", True)])
