"""Which positions of each value depend on the image at all.

Padding does not, nor do constants that are concatenated. Relevance that reached such a position could go nowhere,
so joins send none there, dead units share over the positions that do depend, and what arrives all the same
(at a unit that sees padding alone) is absorbed and itemised.

A support is a bool tensor that broadcasts on the value, or None for "every position", which it nearly always is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.graph.convolution import conv_geometry
from relprop.core.graph.gates import signal_of
from relprop.core.graph.graph import Graph, Node, Ref, State, bind
from relprop.core.graph.ops import ADDS_AT, AFFINE, BILINEAR, COPIES, ELEMENTWISE, IN_BOXES, PUTS_AT

Support = Tensor | None

#: operations whose value may hold constants beside what comes from the image
_TAKES_CONSTANTS = (ADDS_AT | PUTS_AT) | {
    "pad", "cat", "stack", "slice_scatter", "select_scatter", "copy", "im2col", "write", "index_put", "masked_scatter",
}  # fmt: skip


def supports(graph: Graph, state: Mapping[str, Tensor]) -> tuple[tuple[Support, ...], frozenset[str]]:
    """Support of every node's value, found by following padding and constants through the graph.

    Also the names of the constants whose numbers that depends on: places, where values are picked by them.
    """
    found = _Masks(state, graph, [None] * len(graph), set())
    for node in graph.steps:
        found.known[node.index] = _narrowed(_support(node, found))
    return tuple(found.known), frozenset(found.read)


@dataclass(frozen=True, eq=False)
class _Masks:
    """What is known on the way: weights, the graph, supports, constants that were read."""

    state: Mapping[str, Tensor]
    graph: Graph
    known: list[Support]
    read: set[str]

    def shape(self, index: int) -> torch.Size:
        """Shape of a value."""
        return self.graph.nodes[index].shape

    def of(self, index: int) -> Tensor:
        """Ones where a value depends on the image, zeros elsewhere."""
        known = self.known[index]
        return torch.ones(self.shape(index)) if known is None else known.float().expand(self.shape(index))


def _narrowed(support: Support) -> Support:
    """None for all; and of the images of a batch, which are alike as a rule, the first."""
    if support is None or bool(support.all()):
        return None
    first = support[:1]
    return first.clone() if bool((support == first).all()) else support


def _support(node: Node, masks: _Masks) -> Support:
    below = [masks.known[i] for i in node.inputs]
    shape = node.shape
    if node.op in AFFINE and len(node.inputs) == 1:
        return _of_affine(node, below[0], masks)
    if node.op in IN_BOXES:
        return _in_boxes(node, below[0], masks)
    if node.op in _TAKES_CONSTANTS or (node.op in COPIES and below[0] is not None):
        whole = node.op in ("cat", "stack") and len(node.inputs) == len(node.args[0])
        return None if whole and all(support is None for support in below) else _of_copy(node, masks)
    if node.op == "gated":
        return _of_gated(node, masks)
    if node.op == "mul" and len(node.inputs) == 1 and 0 in node.args[:2]:
        return torch.zeros(shape, dtype=torch.bool)
    if all(support is None for support in below):
        return None
    if node.op in BILINEAR:
        return _of_weighted(node, masks)
    if node.op == "scaled_dot_product_attention":
        value = node.args[2]
        seen = masks.known[value.index] if isinstance(value, Ref) else None
        return None if seen is None else seen.any(-2, keepdim=True).expand(shape)
    if node.op in ELEMENTWISE or (len(node.inputs) == 1 and shape == masks.shape(node.inputs[0])):
        return below[0]
    if "pool" in node.op or node.op in ("mean", "sum", "amax", "amin", "max[0]", "min[0]"):
        assert below[0] is not None
        return _pooled(node, below[0].expand(masks.shape(node.inputs[0])))
    if len(node.inputs) > 1 and any(support is None for support in below):
        return None
    if len(node.inputs) > 1:
        return torch.stack([s.expand(shape) for s in below if s is not None]).any(0)
    return None


def _of_copy(node: Node, masks: _Masks) -> Support:
    """Run the operation itself on the mask of its input; constants are zeros."""

    def mask(argument: Ref | State) -> Any:
        if isinstance(argument, State):
            constant = masks.state[argument.name].cpu()  # places (int) as they are, values as zeros
            if not constant.is_floating_point():
                masks.read.add(argument.name)
            return torch.zeros_like(constant, dtype=torch.float32) if constant.is_floating_point() else constant
        return masks.of(argument.index)

    args = list(bind(node.args, mask))
    if node.op == "pad":  # the value of the padding is a constant, whatever it is
        args = [*args[:2], *args[2:3]] if len(args) > 2 and isinstance(args[2], str) else args[:2]
    if node.op in PUTS_AT and isinstance(args[-1], int | float):
        args[-1] = 0  # a number that is put there
    kwargs = {name: value for name, value in node.kwargs.items() if name != "alpha"}  # a factor, of either sign
    moved: Tensor = node.call(*args, **({} if node.op == "pad" else bind(kwargs, mask)))
    return moved != 0


def _of_gated(node: Node, masks: _Masks) -> Support:
    """That of the signal, whatever the gate; where a constant signal is zero, there is nothing that could take part."""
    signal = node.args[0]
    if isinstance(signal, Ref):
        return masks.known[signal.index]
    masks.read.add(signal.name)
    return (masks.state[signal.name] != 0).cpu().expand(node.shape)


def _of_weighted(node: Node, masks: _Masks) -> Support:
    """An output depends on the image if any number that it weighs does, whatever the weights."""
    signal = node.inputs[signal_of(masks.graph, node) or 0] if len(node.inputs) > 1 else node.inputs[0]
    if masks.known[signal] is None:
        return None

    def mask(argument: Ref | State) -> Any:
        if isinstance(argument, State):
            return torch.ones_like(masks.state[argument.name], dtype=torch.float32, device="cpu")
        return masks.of(argument.index) if argument.index == signal else torch.ones(masks.shape(argument.index))

    seen: Tensor = node.call(*bind(node.args, mask))
    return seen > 0


def _of_affine(node: Node, below: Support, masks: _Masks) -> Support:
    """An output depends on the image if any input in its receptive field does."""
    if node.op == "linear":
        if below is None:
            return None
        return below.any(-1, keepdim=True).expand(node.shape)

    def shaped(argument: Ref | State) -> Tensor:  # of a weight that the model computes, the shape is known
        if isinstance(argument, State):
            return masks.state[argument.name]
        return torch.empty(masks.shape(argument.index), device="meta")

    conv = conv_geometry(node.call, bind(node.args, shaped))
    if below is None and not conv.may_see_padding_alone:
        return None
    return conv.count(masks.of(node.inputs[0])).repeat_interleave(conv.outputs_per_group, 1) > 0


def _in_boxes(node: Node, below: Support, masks: _Masks) -> Support:
    """A cell of a box depends on the image if a position that it averages does; outside the map there is none."""
    boxes = node.args[1]
    if not isinstance(boxes, State):
        return None
    masks.read.add(boxes.name)
    count, _, *size = masks.shape(node.inputs[0])
    seen = torch.ones(count, 1, *size) if below is None else below.expand(masks.shape(node.inputs[0]))[:, :1].float()
    averaged: Tensor = node.call(seen, masks.state[boxes.name].cpu().float(), *node.args[2:], **node.kwargs)
    return (averaged > 0).expand(node.shape)


def _pooled(node: Node, below: Tensor) -> Support:
    """A window depends on the image if any of its members does."""
    args = bind(node.args[1:], lambda _: 1)
    pooled: Tensor = node.call(below.float(), *args, **node.kwargs)
    return pooled > 0
