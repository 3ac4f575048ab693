"""Every block and every head of `core_nets` conserves, in a batch as alone."""

from __future__ import annotations

import pytest

from core_balance import check
from core_nets import BLOCKS, HEADS, Network


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_conserves(block):
    check(Network((block,), "mean", seed=3))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_conserves(head):
    check(Network(("Basic", "PaddedShortcut"), head, seed=4), [("ratio", True)])
