"""What holds for every residual network: each layer conserves, batches equal single images, the model is left alone."""

from __future__ import annotations

import torch

import relprop
from core_nets import Network, images

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


def explain_balanced(net: torch.nn.Module, x: torch.Tensor, tolerance: float, **options) -> relprop.Relevance:
    """Relevance by the paper's rules, which has to balance and to add up to the score."""
    result = relprop.explain(net, x, composite=relprop.paper(**options))
    assert result.ledger.gap <= tolerance
    assert result.ledger.absorbed <= tolerance
    total = result.relevance.double().sum((1, 2, 3))
    assert ((total - result.score).abs() / result.score).max() <= tolerance
    return result


def assert_same(result: relprop.Relevance, expected: relprop.Relevance, rtol: float = 1e-5) -> None:
    assert result.relevance.dtype == torch.float32
    torch.testing.assert_close(result.relevance, expected.relevance, rtol=rtol, atol=rtol * 1e-2)
    assert result.ledger.gap < 1e-5


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
