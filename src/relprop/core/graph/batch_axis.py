"""Where the images of a batch lie in each value, and which steps mix them.

Relevance and its ledger are kept apart for each image. Moving the batch is no obstacle: attention puts it second,
(3, N, heads, ...), and windows share its dimension, (N k, ...). Of a batch of one image, all is of that image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.graph.graph import Graph, Node, Ref, State, bind, states
from relprop.core.graph.ops import ADDS_AT, COPIES, IN_BOXES, PUTS_AT
from relprop.core.graph.views import write

#: steps that reach along the dimensions they name, in their second argument or `dim`
_BY_DIM = frozenset(
    {
        "mean", "sum", "softmax", "_safe_softmax", "log_softmax", "amax", "amin", "cumsum", "max[0]", "min[0]",
        "median[0]", "std", "var", "logsumexp", "prod", "linalg_vector_norm", "norm", "topk[0]", "sort[0]", "cumprod",
        "nanmedian[0]", "mode[0]", "kthvalue[0]", "cummax[0]", "cummin[0]",
    }
)  # fmt: skip
_ALL_DIMS = frozenset({"mean", "sum", "amax", "amin", "std", "var", "prod", "linalg_vector_norm", "norm"})
_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"})

#: steps that compute each row of the first dimension for itself
_BY_ROW = frozenset({"conv", "conv_transpose", "batch_norm", "group_norm", "instance_norm"})


#: numbers; so many are converted to float64 in less time than two sums take
_FEW = 1 << 15


def exact_type(value: Tensor) -> torch.dtype:
    """The type that sums are taken in: float64, where the device has it."""
    return torch.float32 if value.device.type == "mps" else torch.float64


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
        exact = exact_type(value)
        if not value.numel():
            return value.new_zeros(count, dtype=exact)
        value = value.detach() if value.requires_grad else value
        rows = value.abs() if magnitude else value
        if self is FIRST and count == 1 and rows.numel() <= _FEW:
            return rows.sum(dtype=exact)[None]
        if not rows.dim():
            rows = rows[None]  # one number of one image
        if self.axis:
            rows = rows.movedim(self.axis, 0)
        if rows.dim() > 2:
            rows = rows.sum(-1 if rows.stride(-1) == 1 and rows.stride(1) != 1 else 1)
        sums = rows.sum(tuple(range(1, rows.dim())), dtype=exact) if rows.dim() > 1 else rows.to(exact)
        return sums if sums.shape[0] == count else sums.view(self.before, count, -1).sum((0, 2))


FIRST = Place()


def places(graph: Graph, state: Mapping[str, Tensor]) -> tuple[tuple[Place | None, ...], frozenset[str]]:
    """Place of the batch in the value of each node; None where it has none, since images mix there.

    Also the names of the constants whose numbers that depends on: places, where values are picked by them.
    """
    count = graph.nodes[0].shape[0]
    found: list[Place | None] = [FIRST] * len(graph)
    read: set[str] = set()
    for node in graph.steps if count > 1 else ():
        below = [found[i] for i in node.inputs]
        if None in below:
            found[node.index] = None
            continue
        names = {leaf.name for leaf in states(node.args)}
        picked = {name: state[name] for name in names if not state[name].is_floating_point()}
        read |= {*picked} if node.op in COPIES else set()
        found[node.index] = _place(graph, node, below, count, picked)  # type: ignore[arg-type]
    return tuple(found), frozenset(read)


def mixing(graph: Graph, found: Sequence[Place | None]) -> tuple[Node, ...]:
    """The first steps in whose value the images of a batch do not stay apart; a graph of one image has none."""
    return tuple(n for n in graph.steps if found[n.index] is None and None not in [found[i] for i in n.inputs])


def _place(graph: Graph, node: Node, below: list[Place], count: int, picked: Mapping[str, Tensor]) -> Place | None:
    """The batch's place in a value, from its places in those that the value is computed from."""
    shapes = [graph.nodes[i].shape for i in node.inputs]
    first, shape = below[0], shapes[0]
    if 0 in node.shape:
        return _anywhere(node.shape, count)
    if node.op in _RESHAPES:
        return _reshaped(node.shape, first, shape, count)
    if node.op == "write":
        return _written(node, below, shapes, count)
    if node.op in COPIES or node.op == "as_strided":
        return _copied(node, first, shape, count, picked)
    if node.op in _BY_DIM:
        return _reduced(node, first, len(shape))
    if node.op in ("cat", "stack"):
        return _joined(node, below, shapes)
    if node.op in IN_BOXES or (node.op == "index_put" and isinstance(node.args[2], Ref)):
        return None  # rows go where boxes or places say, whose numbers are not known here
    if node.op == "masked_scatter":
        return None  # values are taken in order, whichever image they are of
    if node.op in ADDS_AT | PUTS_AT and node.args[1] % len(node.shape) == first.axis:
        return None
    if node.op in _BY_ROW and first.axis:
        return None
    if node.op in ("linear", "softmax") and first.axis == len(shape) - 1:
        return None
    return _aligned(node, below, shapes, count)


def _anywhere(shape: torch.Size, count: int) -> Place:
    """Of a value without numbers, to which no relevance goes (`x[:, :0]`): the first dimension that images fit into."""
    fits = (Place(axis, 1, size // count) for axis, size in enumerate(shape) if size and size % count == 0)
    return next(fits, FIRST)


def _aligned(node: Node, below: list[Place], shapes: list[torch.Size], count: int) -> Place | None:
    """Any other step: the batch keeps its distance from the front, or of operands that broadcast, from the end."""
    rank = len(node.shape)
    candidates = {
        Place(place.axis + (rank - len(shape) if len(below) > 1 else 0), place.before, place.rows)
        for place, shape in zip(below, shapes, strict=True)
    }
    if len(candidates) != 1:
        return None
    place = candidates.pop()
    if place.axis >= rank or node.shape[place.axis] != place.rows * count:
        return None
    contracts = node.op in ("matmul", "bmm", "baddbmm", "mm") and place.axis >= rank - (2 if len(below) > 1 else 1)
    return None if contracts else place


def _reshaped(shape: tuple[int, ...], place: Place, given: tuple[int, ...], count: int) -> Place | None:
    """In row-major order, what lies before the batch and the batch itself stay where they are."""
    ahead = math.prod(given[: place.axis]) * place.before  # runs of N images each
    axis, passed = 0, 1
    while axis < len(shape) and passed * shape[axis] < ahead * count:
        passed *= shape[axis]
        axis += 1
    if axis == len(shape) or ahead % passed:
        return None
    before = ahead // passed
    rows, rest = divmod(shape[axis], count)
    return None if rest or rows % before else Place(axis, before, rows)


def _copied(node: Node, place: Place, given: tuple[int, ...], count: int, picked: Mapping[str, Tensor]) -> Place | None:
    """Where the numbers of the images come to lie when the step moves them, to the places that it picks."""
    images = _images(place, given, count)

    def value(argument: Ref | State) -> Any:
        if isinstance(argument, Ref):
            return images
        return picked[argument.name].cpu() if argument.name in picked else None

    kwargs = {name: argument for name, argument in node.kwargs.items() if name != "value"}
    try:
        moved: Tensor = _without_value(node)(*bind(node.args, value), **bind(kwargs, value))
    except (TypeError, RuntimeError, IndexError):  # it takes places from a tensor: the batch is not moved
        return _aligned(node, [place], [torch.Size(given)], count)
    return _found(moved, count)


def _images(place: Place, shape: tuple[int, ...], count: int) -> Tensor:
    """The number of the image that each element of a value is of."""
    numbers = _numbers(place.before, count, place.rows // place.before)
    sizes = [1] * len(shape)
    sizes[place.axis] = len(numbers)
    return numbers.view(sizes).expand(shape)


def _written(node: Node, below: list[Place], shapes: list[torch.Size], count: int) -> Place | None:
    """Where the images lie in a value of which a part is overwritten; constants are of none."""
    known = iter([_images(place, shape, count) for place, shape in zip(below, shapes, strict=True)])
    none = torch.tensor(math.nan, dtype=torch.float64)
    base, part = (next(known) if isinstance(argument, Ref) else none for argument in node.args[:2])
    return _found(write(base.expand(node.shape), part, node.args[2]), count)


def _without_value(node: Node) -> Any:
    """The step; of padding, with NaN where there is nothing of an image."""
    named = len(node.args) > 2 and isinstance(node.args[2], str) and node.args[2] != "constant"
    if node.op != "pad" or named:
        return node.call
    return lambda value, amounts, *_: torch.nn.functional.pad(value, [*amounts], value=math.nan)


def _found(moved: Tensor, count: int) -> Place | None:
    """The one dimension along which the numbers of the images change, if they lie there in order."""
    for axis in range(moved.dim()):
        rows, rest = divmod(moved.shape[axis], count)
        if rest or rows == 0:
            continue
        others = tuple(dim for dim in range(moved.dim()) if dim != axis)
        low = moved.nan_to_num(math.inf).amin(others) if others else moved
        high = moved.nan_to_num(-math.inf).amax(others) if others else moved
        if not torch.equal(low, high):
            continue
        for before in (n for n in range(1, rows + 1) if rows % n == 0):
            if torch.equal(low, _numbers(before, count, rows // before)):
                return Place(axis, before, rows)
    return None


def _numbers(before: int, count: int, behind: int) -> Tensor:
    """The number of the image that each row is of, where rows lie as `Place` says."""
    return torch.arange(count, dtype=torch.float64).repeat_interleave(behind).repeat(before)


def _reduced(node: Node, place: Place, rank: int) -> Place | None:
    """A step along dimensions: None where the batch's is among them."""
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if node.op in ("linalg_vector_norm", "norm", "topk[0]", "kthvalue[0]"):
        dims = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
    if node.op in ("topk[0]", "sort[0]", "kthvalue[0]", "mode[0]") and dims is None:
        dims = -1
    if dims is None or dims == ():
        if node.op in _ALL_DIMS:
            return None
        dims = 0
    reduced = {dim % rank for dim in ((dims,) if isinstance(dims, int) else dims)}
    if place.axis in reduced:
        return None
    lost = rank - len(node.shape)
    return Place(place.axis - (sum(dim < place.axis for dim in reduced) if lost else 0), place.before, place.rows)


def _joined(node: Node, below: list[Place], shapes: list[torch.Size]) -> Place | None:
    """Concatenated or stacked along another dimension than the batch's."""
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    below = [place for place, shape in zip(below, shapes, strict=True) if 0 not in shape] or below
    place, rank = below[0], len(node.shape)
    if any(other != place for other in below):
        return None
    if node.op == "stack":
        return Place(place.axis + (dim % rank <= place.axis), place.before, place.rows)
    return None if dim % rank == place.axis else place
