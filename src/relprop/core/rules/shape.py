"""Rules for operations that only move elements: relevance moves back to where the value came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.core.graph.graph import with_defaults
from relprop.core.graph.ops import COPIES
from relprop.core.graph.views import view
from relprop.core.rules.rule import rule
from relprop.core.rules.step import Absent, Step
from relprop.errors import UnsupportedOpError

_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"})


@rule(*COPIES, name="move", reads=())
def move_back(step: Step, relevance: Tensor) -> Tensor:
    """R_i = Σ R_j over the outputs j that are copies of input i: views, slices, padding, permutations, repeats.

    What falls on padding came from nowhere; joins send nothing there.
    """
    shape = step.shapes[0]
    back: Tensor
    if step.node.op in _RESHAPES:
        return relevance.reshape(shape)
    if step.node.op == "permute":
        return relevance.permute(_inverse(step.args[1]))
    if step.node.op in ("transpose", "t"):
        return relevance.transpose(*(step.args[1:3] or (0, 1)))
    if step.node.op == "slice":
        dim, start, end, stride = with_defaults(step.args[1:], 0, None, None, 1)
        back = torch.ops.aten.slice_backward(relevance, list(shape), dim, start or 0, _end(end), stride)
        return back
    if step.node.op == "select":
        back = torch.ops.aten.select_backward(relevance, list(shape), *step.args[1:3])
        return back
    if step.node.op == "one_input":
        start, end, _ = step.args[1:]
        whole = relevance.new_zeros(shape)
        whole[:, start:end] = relevance.reshape(len(relevance), -1)
        return whole
    if step.node.op == "expand":
        return relevance.sum_to_size(shape) if len(shape) == relevance.dim() else _by_origin(step, relevance)
    if step.node.op == "pad" and (
        len(step.args) < 3 or not isinstance(step.args[2], str) or step.args[2] == "constant"
    ):
        return torch.nn.functional.pad(relevance, [-amount for amount in step.args[1]])
    return _by_origin(step, relevance)


def _inverse(order: list[int]) -> list[int]:
    rank = len(order)
    return sorted(range(rank), key=lambda i: order[i] % rank)


def _end(end: int | None) -> int:
    return torch.iinfo(torch.int64).max if end is None else end


def _by_origin(step: Step, relevance: Tensor) -> Tensor:
    """Any other operation: run it on the positions of the input, and add relevance up by origin."""
    shape = step.shapes[0]
    count = shape.numel()
    # exact as float64 up to 2^53 elements; some padding modes know no integers
    origins = torch.arange(1, count + 1, dtype=torch.float64, device=relevance.device).view(shape)
    args: list[Any] = [origins, *step.args[1:]]
    index = step.node.call(*args, **step.kwargs).long().flatten()
    return relevance.new_zeros(count + 1).index_add_(0, index, relevance.flatten())[1:].view(shape)


@rule("cat", name="split up", reads=(), several=True)
def cut_up(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Concatenation: each part gets the relevance of its own slice; what constants hold is absorbed."""
    parts = step.args[0]
    dim = step.args[1] if len(step.args) > 1 else step.kwargs.get("dim", 0)
    sizes = [part.shape[dim] for part in parts]
    pieces = torch.split(relevance, sizes, dim)
    return tuple(piece for piece, part in zip(pieces, parts, strict=True) if isinstance(part, Absent))


@rule("stack", name="split up", reads=(), several=True)
def unstack(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Stacking: each part gets the relevance of its own layer; what constants hold is absorbed."""
    parts = step.args[0]
    dim = step.args[1] if len(step.args) > 1 else step.kwargs.get("dim", 0)
    return tuple(piece for piece, part in zip(relevance.unbind(dim), parts, strict=True) if isinstance(part, Absent))


@rule("slice_scatter", "select_scatter", name="split up", reads=(), several=True)
def scatter_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """A write through a view, `y[:, :2] = x`: x gets the relevance there, y the rest; a constant gets none."""
    base, source, *where = step.args
    take, put = _VIEWS[step.node.op]
    there = take(relevance, *where, **step.kwargs)
    rest = put(relevance, torch.zeros_like(there), *where, **step.kwargs)
    return tuple(part for part, argument in ((rest, base), (there, source)) if isinstance(argument, Absent))


_VIEWS = {
    "slice_scatter": (torch.ops.aten.slice.Tensor, torch.ops.aten.slice_scatter.default),
    "select_scatter": (torch.ops.aten.select.int, torch.ops.aten.select_scatter.default),
}


@rule("write", name="split up", reads=(), several=True)
def write_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """A write through a view: what is written gets the relevance there, the rest what was there before."""
    base, part, views = step.args
    there = view(relevance, views)
    rest = relevance.clone()
    view(rest, views).zero_()
    return tuple(given for given, argument in ((rest, base), (there, part)) if isinstance(argument, Absent))


@rule("index_put", name="split up", reads=(), several=True)
def put_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """`y[indices] = x`: x gets the relevance there, y the rest; what is written to one index shares it evenly.

    An x without rows, as where no box lies on a level of a pyramid, gets none.
    """
    base, indices, values, *more = step.args
    if more[:1] == [True]:
        raise UnsupportedOpError(
            f"{step.node.name} adds up values of one index (index_put with accumulate=True), which has no rule"
        )
    ones = torch.ones(values.shape, dtype=relevance.dtype, device=relevance.device)
    times = torch.ops.aten.index_put(
        torch.zeros_like(relevance), indices, ones.expand_as(relevance[_slots(indices)]), True
    )
    there = (relevance / times.clamp(min=1))[_slots(indices)].sum_to_size(values.shape)
    rest = torch.where(times > 0, 0, relevance)
    parts = ((rest, base), (there if there.numel() else None, values))
    return tuple(part for part, argument in parts if isinstance(argument, Absent))


def _slots(indices: Any) -> tuple[Any, ...]:
    """Indices as `tensor[...]` takes them: None stands for a whole dimension."""
    return tuple(slice(None) if index is None else index for index in indices)


@rule("topk[0]", "sort[0]", name="move")
def to_the_chosen(step: Step, relevance: Tensor) -> Tensor:
    """The largest, or all in order: each to the value that it is."""

    def choose(value: Tensor) -> Tensor:
        chosen: Tensor = step.node.call(value, *step.args[1:], **step.kwargs)
        return chosen

    transpose: Any = torch.func.vjp(choose, step.input)[1]
    moved: Tensor = transpose(relevance)[0]
    return moved


@rule("copy", name="move", reads=(), several=True)
def copy_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """`y.copy_(x)`: all to x, whose value it is."""
    target, source, *_ = step.args
    parts = ((None, target), (source, source))
    return tuple(
        None if part is None else relevance.sum_to_size(source.shape)
        for part, argument in parts
        if isinstance(argument, Absent)
    )
