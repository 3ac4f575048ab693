"""Networks drawn at random: each layer conserves, or says what it absorbs."""

from __future__ import annotations

import random

import pytest
import torch

import relprop
from core_balance import VARIANTS, check, require_balance
from core_nets import BLOCKS, HEADS, Network, images
from relprop.core.composites.presets import COMPOSITES

CLASSICS = ("epsilon", "gamma", "epsilon-plus-flat", "epsilon-alpha2-beta1-flat")
HALVE = {"Bottleneck", "PaddedShortcut", "Pools"}  # eight pixels can be halved once, and still be padded by reflection


def drawn(seed: int) -> Network:
    """A network of two to six blocks, the same whenever its seed is."""
    draw = random.Random(seed)
    while True:
        blocks = tuple(draw.choices([*BLOCKS], k=draw.randint(2, 6)))
        if sum(name in HALVE for name in blocks) <= 1:
            return Network(blocks, draw.choice(HEADS), seed)


@pytest.fixture(params=[*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 33))])
def seed(request) -> int:
    return request.param


def test_random_networks_conserve_in_float64(seed):
    check(drawn(seed), [VARIANTS[seed % 4]])


def test_random_networks_conserve_in_float32(seed):
    net = drawn(100 + seed)
    result = relprop.LRP(net, keep="all")(images(2, torch.float32))
    require_balance(net, result, 1e-5)
    # every tensor that all of the relevance crosses holds all that was not absorbed above it
    absorbed = dict(zip([e.name for e in result.ledger.entries], result.ledger.absorptions.cumsum(0), strict=True))
    whole = result.at("stem", "output").double().flatten(1).sum(1)
    due = result.score - absorbed["relu" if "relu" in absorbed else "stem"]
    assert ((whole - due).abs() / result.score).max() <= 1e-5


def test_classics_account_for_what_they_absorb(seed):
    """They absorb at bias and epsilon; what arrives is what started, less all that the ledger says was absorbed."""
    result = relprop.LRP(drawn(200 + seed).double(), COMPOSITES.build(CLASSICS[seed % 4]))(images(2))
    ledger = result.ledger
    assert ledger.gap <= 1e-12
    scale = torch.stack([e.magnitude for e in ledger.entries]).amax(0)
    missing = ledger.start - ledger.absorptions.sum(0) - ledger.end
    assert (missing.abs() / scale).max() <= 1e-12
