"""Where the images of a batch lie in each value, and which steps mix them.

Relevance and its books are kept apart for each image, so steps that mix images are refused. Moving the batch is
none: attention puts it second, (3, N, heads, ...), and windows share its dimension, (N k, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.graph import Graph, Node, sizes

#: steps that reach along the dimensions they name, in their second argument or `dim`
_BY_DIM = frozenset(
    {"cat", "slice", "select", "mean", "sum", "flip", "softmax", "amax", "amin", "cumsum", "roll", "max[0]", "min[0]"}
)
_ALL_DIMS = frozenset({"mean", "sum", "amax", "amin"})  # what they do where no dimension is named
_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"})


@dataclass(frozen=True)
class Place:
    """Where the images of a batch lie in a tensor.

    Attributes:
        axis: the dimension that they have, of before · N · behind rows in this order.
        before: 1 but where something is merged in front of the batch.
        rows: before · behind, the size of that dimension for one image.
    """

    axis: int = 0
    before: int = 1
    rows: int = 1

    def total(self, value: Tensor, count: int, *, magnitude: bool = False) -> Tensor:
        """(N,) sum of each of `count` images in float64.

        Only the dimension that lies densest in memory is summed in the tensor's own type first (by torch's cascade,
        so to rounding): a float64 sum of everything would convert, and so copy, all of it, at several times the cost.
        """
        exact = torch.float32 if value.device.type == "mps" else torch.float64
        rows = value.abs() if magnitude else value
        if self.axis:
            rows = rows.movedim(self.axis, 0)
        if rows.dim() > 2:
            rows = rows.sum(-1 if rows.stride(-1) == 1 and rows.stride(1) != 1 else 1)
        sums = rows.sum(tuple(range(1, rows.dim())), dtype=exact) if rows.dim() > 1 else rows.to(exact)
        return sums if sums.shape[0] == count else sums.view(self.before, count, -1).sum((0, 2))

    def every(self, mask: Tensor, count: int) -> Tensor:
        """Lay out a mask for one image so that it broadcasts on a tensor of `count` images."""
        size = mask.shape[self.axis] if mask.dim() else 1
        if size in (1, self.rows * count):  # broadcasts, or was made for the batch that the graph was captured for
            return mask
        ahead, behind = mask.shape[: self.axis], mask.shape[self.axis + 1 :]
        apart = mask.reshape(*ahead, self.before, 1, size // self.before, *behind)
        repeated = apart.expand(*ahead, self.before, count, size // self.before, *behind)
        return repeated.reshape(*ahead, size * count, *behind)


FIRST = Place()


def places(graph: Graph) -> tuple[Place | None, ...]:
    """Place of the batch in the value of each node; None where it has none, since images mix there."""
    found: list[Place | None] = [FIRST] * len(graph)
    for node in graph.steps:
        below = [found[i] for i in node.inputs]
        if graph.any_batch and node.shape is not None:
            found[node.index] = _place(graph, node, [place or FIRST for place in below])
    return tuple(found)


def _place(graph: Graph, node: Node, below: list[Place]) -> Place | None:
    """The batch's dimension is the one whose size is not fixed; what is merged before it follows from the order."""
    shape = sizes(node)
    axes = [axis for axis, size in enumerate(shape) if size is None]
    if len(axes) != 1:
        return None
    axis = axes[0]
    if node.op not in _RESHAPES:
        return Place(axis, max(place.before for place in below), max(place.rows for place in below))
    source = single(graph.nodes[node.inputs[0]], below[0])
    before, rest = divmod(math.prod(source[: below[0].axis]) * below[0].before, math.prod(known(shape[:axis])))
    rows = math.prod(source) // math.prod(known(shape))
    return None if rest or not before else Place(axis, before, rows)


def known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """The sizes of a shape that are fixed."""
    return tuple(size for size in shape if size is not None)


def single(node: Node, place: Place | None) -> tuple[int, ...]:
    """Shape of a node's value for one image."""
    rows = 1 if place is None else place.rows
    return tuple(rows if size is None else size for size in sizes(node))


def mixing(graph: Graph) -> tuple[Node, ...]:
    """Steps in whose value the images of a batch do not stay apart; a graph of one image has none."""
    if sizes(graph.nodes[0])[:1] == (1,):
        return ()
    found = places(graph)
    return tuple(n for n in graph.steps if found[n.index] is None or _reaches_across(graph, n, found[n.inputs[0]]))


def _reaches_across(graph: Graph, node: Node, place: Place | None) -> bool:
    """Whether a step computes along the dimension of the batch."""
    axis = (place or FIRST).axis
    if node.op == "repeat":
        repeats: list[int] = node.args[1]
        return len(repeats) == len(sizes(node)) and repeats[axis] != 1
    rank = len(sizes(graph.nodes[node.inputs[0]]))
    if node.op not in _BY_DIM or rank == 0 or (node.op == "slice" and _is_whole(node)):
        return False
    default = None if node.op in _ALL_DIMS else 0
    place_of_dims = 2 if node.op == "roll" else 1
    dims: Any = node.args[place_of_dims] if len(node.args) > place_of_dims else node.kwargs.get("dim", default)
    if not dims and not isinstance(dims, int):  # no dimension named: all
        return True
    return any(dim % rank == axis for dim in ([dims] if isinstance(dims, int) else dims))


def _is_whole(node: Node) -> bool:
    """Whether a slice takes everything, as `x[:, :, ::2]` does of the batch."""
    start, end, stride = (*node.args[2:5], None, None, None)[:3]
    return start in (None, 0) and (end is None or (isinstance(end, int) and end >= 2**62)) and stride in (None, 1)
