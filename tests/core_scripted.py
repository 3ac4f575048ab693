"""What holds for TorchScript of every network: it is explained as the model in Python that it was made of."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import relprop
from relprop.core.graph.joins import find_joins

#: kinds of TorchScript, the type of numbers and the tolerance with which each is compared
KINDS = [("trace", torch.float64, 1e-12), ("script", torch.float32, 1e-5), ("frozen", torch.float64, 1e-12)]


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def scripted(net: nn.Module, x: Tensor, kind: str) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
        made = torch.jit.trace(net, x, check_trace=False) if kind == "trace" else torch.jit.script(net)
        return torch.jit.freeze(made) if kind == "frozen" else made


def require_same(ours: relprop.Relevance, theirs: relprop.Relevance, rtol: float = 1e-12) -> None:
    assert ours.ledger.gap < rtol
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=rtol, atol=rtol * 1e-2)


def require_the_residual_network(net: nn.Module, kind: str, rtol: float, x: Tensor, joins: int) -> None:
    """The same relevance, for a batch as for an image, and the same graph with its names."""
    keep = ["layer1.0"] if kind == "trace" else []
    lrp, plain = (relprop.LRP(model, keep=keep) for model in (scripted(net, x, kind), net))
    result, expected = lrp(x), plain(x)
    require_same(result, expected, rtol)
    graph, theirs = lrp.graph(x), plain.graph(x)
    one = lrp(x[1:], target=result.target[1:])
    torch.testing.assert_close(one.relevance, result.relevance[1:], rtol=rtol, atol=rtol * 1e-2)
    found = [(j.skips, j.identities) for j in find_joins(graph).values()]
    assert found == [(j.skips, j.identities) for j in find_joins(theirs).values()]
    assert len(found) == joins
    if kind != "frozen":  # which folds batch norms
        assert [node.op for node in graph] == [node.op for node in theirs]
        assert {"conv1", "layer1.0.conv1", "layer2.0.downsample.0", "fc"} <= {node.name for node in graph}
    if kind == "trace":
        assert [node.name for node in graph] == [node.name for node in theirs]
        inner = result.at("layer1.0"), expected.at("layer1.0")
        torch.testing.assert_close(*inner, rtol=rtol, atol=rtol * 1e-2)


def require_the_same_from_a_file(net: nn.Module, kind: str, x: Tensor, folder: Path) -> None:
    made = scripted(net, x, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of TorchScript's age
        torch.jit.save(made, folder / "net.pt")
        loaded = torch.jit.load(folder / "net.pt")
    require_same(relprop.explain(loaded, x), relprop.explain(net, x), 1e-5)
