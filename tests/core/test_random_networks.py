"""Networks drawn at random: each layer conserves, or says what it absorbs."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import relprop
from core_balance import VARIANTS, check, require_balance
from core_nets import BLOCKS, HEADS, Network, images
from relprop.core.composites.presets import COMPOSITES


def not_too_small(blocks: tuple[str, ...]) -> bool:
    """Eight pixels can be halved once, and still be padded by reflection."""
    return sum(name in ("Bottleneck", "PaddedShortcut", "Pools") for name in blocks) <= 1


NETWORKS = st.builds(
    Network,
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=2, max_size=6).map(tuple).filter(not_too_small),
    st.sampled_from(HEADS),
    st.integers(0, 10**6),
)
FEW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking would run for minutes; the examples are small as they are
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@FEW
@given(net=NETWORKS, variant=st.sampled_from(VARIANTS))
def test_random_networks_conserve_in_float64(net, variant):
    check(net, [variant])


@FEW
@given(net=NETWORKS)
def test_random_networks_conserve_in_float32(net):
    result = relprop.LRP(net, keep="all")(images(2, torch.float32))
    require_balance(net, result, 1e-5)
    # every tensor that all of the relevance crosses holds all that was not absorbed above it
    absorbed = dict(zip([e.name for e in result.ledger.entries], result.ledger.absorptions.cumsum(0), strict=True))
    whole = result.at("stem", "output").double().flatten(1).sum(1)
    due = result.score - absorbed["relu" if "relu" in absorbed else "stem"]
    assert ((whole - due).abs() / result.score).max() <= 1e-5


@settings(FEW, max_examples=5)
@given(net=NETWORKS, name=st.sampled_from(["epsilon", "gamma", "epsilon-plus-flat", "epsilon-alpha2-beta1-flat"]))
def test_classics_account_for_what_they_absorb(net, name):
    """They absorb at bias and epsilon; what arrives is what started, less all that the book says was absorbed."""
    result = relprop.LRP(net.double(), COMPOSITES.build(name))(images(2))
    ledger = result.ledger
    assert ledger.gap <= 1e-12
    scale = torch.stack([e.magnitude for e in ledger.entries]).amax(0)
    missing = ledger.start - ledger.absorptions.sum(0) - ledger.end
    assert (missing.abs() / scale).max() <= 1e-12
