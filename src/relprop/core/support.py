"""Which positions of each value depend on the image at all.

Padding does not, nor do constants that are concatenated. Relevance that reached such a position could go nowhere,
so joins send none there, dead units share over the positions that do depend, and what arrives all the same
(at a unit that sees padding alone) is absorbed and itemised.

A support is a bool tensor (1, *shape), or None for "every position", which is nearly always the answer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.core.geometry import conv_geometry
from relprop.core.graph import Graph, Node, Ref, State, bind
from relprop.core.ops import AFFINE, COPIES, ELEMENTWISE

Support = Tensor | None

#: operations whose value may hold constants beside what comes from the image
_TAKES_CONSTANTS = frozenset({"pad", "cat", "stack", "slice_scatter", "select_scatter", "copy"})


def supports(graph: Graph, state: dict[str, Tensor]) -> tuple[Support, ...]:
    """Support of every node's value, found by following padding and constants through the graph."""
    found: list[Support] = [None] * len(graph)
    for node in graph.steps:
        found[node.index] = _trivial(_support(node, graph, found, state))
    return tuple(found)


def _trivial(support: Support) -> Support:
    return None if support is None or bool(support.all()) else support


def _support(node: Node, graph: Graph, found: list[Support], state: dict[str, Tensor]) -> Support:
    below = [found[i] for i in node.inputs]
    if node.op in AFFINE:
        return _of_affine(node, below[0], graph, state)
    if node.op in ("pad", "cat", "stack", "slice_scatter", "select_scatter", "copy") or (
        node.op in COPIES and below[0] is not None
    ):
        return _of_copy(node, graph, found, state)
    if node.op == "mul" and len(node.inputs) == 1 and 0 in node.args[:2]:
        return torch.zeros(_one(node), dtype=torch.bool)
    if all(support is None for support in below):
        return None
    if node.op in ELEMENTWISE or (len(node.inputs) == 1 and _one(node) == _one(graph.nodes[node.inputs[0]])):
        return below[0]
    if "pool" in node.op or node.op in ("mean", "sum"):
        assert below[0] is not None
        return _pooled(node, below[0])
    if len(node.inputs) > 1 and any(support is None for support in below):
        return None
    if len(node.inputs) > 1:
        masks = [s.expand(_one(node)) for s in below if s is not None]
        return torch.stack(masks).any(0)
    return None


def _one(node: Node) -> tuple[int, ...]:
    """Shape of the value for one image."""
    return tuple(1 if size is None else size for size in node.shape or ())


def _ones(node: Node) -> Tensor:
    return torch.ones(_one(node))


def _of_copy(node: Node, graph: Graph, found: list[Support], state: dict[str, Tensor]) -> Support:
    """Run the operation itself on the mask of its input; constants are zeros."""

    def mask(argument: Ref | State) -> Any:
        if isinstance(argument, State):
            return torch.zeros_like(state[argument.name], dtype=torch.float32, device="cpu")
        source = graph.nodes[argument.index]
        if source.shape is None:  # a size, or something computed of sizes: that of one image
            return 1 if source.op == "sym_size" else source.call(*bind(source.args, mask))
        if not graph.depends[argument.index]:
            return torch.zeros(_one(source))
        known = found[argument.index]
        return _ones(source) if known is None else known.float()

    args = list(bind(node.args, mask))
    if node.op == "pad":  # the value of the padding is a constant, whatever it is
        args = [*args[:2], *args[2:3]] if len(args) > 2 and isinstance(args[2], str) else args[:2]
    moved: Tensor = node.call(*args, **({} if node.op == "pad" else bind(dict(node.kwargs), mask)))
    return moved != 0


def _of_affine(node: Node, below: Support, graph: Graph, state: dict[str, Tensor]) -> Support:
    """An output depends on the image if any input in its receptive field does."""
    if node.op == "linear":
        return None if below is None or bool(below.flatten(1).any()) else torch.zeros(_one(node), dtype=torch.bool)

    def shaped(argument: Ref | State) -> Tensor:  # of a weight that the model computes, the shape is known
        if isinstance(argument, State):
            return state[argument.name]
        return torch.empty(_one(graph.nodes[argument.index]), device="meta")

    conv = conv_geometry(node, bind(node.args, shaped))
    if below is None and not conv.may_see_padding_alone:
        return None
    mask = _ones(graph.nodes[node.inputs[0]]) if below is None else below.float()
    return conv.count(mask).repeat_interleave(conv.outputs_per_group, 1) > 0


def _pooled(node: Node, below: Tensor) -> Support:
    """A window depends on the image if any of its members does."""
    args = bind(node.args[1:], lambda _: 1)
    pooled: Tensor = node.call(below.float(), *args, **node.kwargs)
    return pooled > 0
