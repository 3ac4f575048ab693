"""What holds for every residual network: the books balance, batches equal single images, the model is left alone."""

from __future__ import annotations

import pytest
import torch
from core_nets import BLOCKS, HEADS, Network, images
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import relprop

VARIANTS = [("symmetric", False), ("symmetric", True), ("ratio", False), ("ratio", True)]


def require_balance(net: Network, result: relprop.Relevance, tolerance: float) -> None:
    ledger = result.ledger
    leaking = [e.name for e, gap in zip(ledger.entries, ledger.gaps, strict=True) if not gap.max() <= tolerance]
    assert not leaking
    assert ledger.gap <= tolerance
    absorbed = {
        e.name: float(a.abs().max())
        for e, a in zip(ledger.entries, ledger.absorptions, strict=True)
        if a.abs().max() > tolerance
    }
    if not net.absorbs:
        assert not absorbed
    total = result.relevance.double().flatten(1).sum(1)
    missing = result.score - ledger.absorptions.sum(0) - total
    assert (missing.abs() / result.score).max() <= 10 * tolerance
    assert torch.equal(ledger.start, result.score.double())


def snapshot(net: torch.nn.Module) -> dict:
    return {name: (value, value.clone(), value._version) for name, value in net.state_dict(keep_vars=True).items()}


def require_unchanged(net: torch.nn.Module, before: dict) -> None:
    for name, value in net.state_dict(keep_vars=True).items():
        same, numbers, version = before[name]
        assert value is same
        assert value._version == version
        assert torch.equal(value, numbers)
        assert value.grad is None


def check(net: Network, variants=VARIANTS) -> None:
    x = images(2)
    net.double()
    before = snapshot(net)
    composites = [relprop.paper(split=split, identity=identity) for split, identity in variants]
    for together in relprop.LRP(net).explain_each(x, composites):
        require_balance(net, together, 1e-12)
    lrp = relprop.LRP(net, composites[-1])
    for n in range(2):
        alone = lrp(x[n : n + 1], target=together.target[n : n + 1])
        torch.testing.assert_close(alone.relevance[0], together.relevance[n], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(together.logits, net(x).detach(), rtol=1e-10, atol=1e-12)
    require_unchanged(net, before)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_conserves(block):
    check(Network((block,), "mean", seed=3))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_conserves(head):
    check(Network(("Basic", "PaddedShortcut"), head, seed=4), [("ratio", True)])


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
    max_examples=8,
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
    from relprop.core.composites.presets import COMPOSITES

    result = relprop.LRP(net.double(), COMPOSITES.build(name))(images(2))
    ledger = result.ledger
    assert ledger.gap <= 1e-12
    scale = torch.stack([e.magnitude for e in ledger.entries]).amax(0)
    missing = ledger.start - ledger.absorptions.sum(0) - ledger.end
    assert (missing.abs() / scale).max() <= 1e-12
