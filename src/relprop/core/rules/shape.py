"""Rules for operations that keep or move elements: relevance passes, or moves back to where the value came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relprop.core.graph.graph import with_defaults
from relprop.core.graph.ops import COPIES, ELEMENTWISE
from relprop.core.graph.views import shown_by
from relprop.core.rules.rule import Absent, Shares, Step, rule
from relprop.core.rules.transpose import back_through

_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"})


@rule(*ELEMENTWISE, name="pass", reads=())
def pass_through(step: Step, relevance: Tensor) -> Tensor:
    """R_in = R_out: activations, batch norm and dropout pass relevance on (paper, section 3)."""
    return relevance


@rule("add", "sub", "rsub", "addcmul", name="pass", reads=())
def pass_constant(step: Step, relevance: Tensor) -> Shares:
    """R_in = R_out beside constants: a bias, a positional constant, a scale and shift, a normalisation of the image."""
    return fit(relevance, step.shapes[0])


def fit(relevance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum relevance over the dimensions along which the input was broadcast."""
    return relevance if relevance.shape == shape else relevance.sum_to_size(shape)


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
        return relevance.permute(inverse(step.args[1]))
    if step.node.op in ("transpose", "t"):
        return relevance.transpose(*(step.args[1:3] or (0, 1)))
    if step.node.op == "slice":
        dim, start, end, stride = with_defaults(step.args[1:], 0, 0, None, 1)
        end = torch.iinfo(torch.int64).max if end is None else end
        back = torch.ops.aten.slice_backward(relevance, list(shape), dim, start or 0, end, stride)
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
        len(step.args) < 3 or step.args[2] == "constant" or not isinstance(step.args[2], str)
    ):
        return torch.nn.functional.pad(relevance, [-amount for amount in step.args[1]])
    return _by_origin(step, relevance)


def inverse(order: Sequence[int]) -> list[int]:
    """The permutation that undoes one."""
    rank = len(order)
    return sorted(range(rank), key=lambda i: order[i] % rank)


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
    parts, dim = _parts(step)
    return _to_inputs(parts, torch.split(relevance, [part.shape[dim] for part in parts], dim))


@rule("stack", name="split up", reads=(), several=True)
def unstack(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Stacking: each part gets the relevance of its own layer; what constants hold is absorbed."""
    parts, dim = _parts(step)
    return _to_inputs(parts, relevance.unbind(dim))


def _parts(step: Step) -> tuple[Sequence[Any], int]:
    """What a step puts together, and the dimension along which it does."""
    return step.args[0], step.args[1] if len(step.args) > 1 else step.kwargs.get("dim", 0)


def _to_inputs(arguments: Sequence[Any], shares: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The shares of those arguments that depend on the image."""
    return tuple(share for share, argument in zip(shares, arguments, strict=True) if isinstance(argument, Absent))


@rule("write", "slice_scatter", "select_scatter", name="split up", reads=(), several=True)
def write_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """A write through a view, `y[:, :2] = x`: x gets the relevance there, y the rest; a constant gets none."""
    base, part, *where = step.args
    views = where[0] if step.node.op == "write" else ((_VIEWS[step.node.op], tuple(where), (0, *step.kwargs.items())),)
    shown, flat = shown_by(views, relevance), relevance.flatten()
    rest = flat.index_fill(0, shown.flatten(), 0).view(relevance.shape)
    return _to_inputs((base, part), (rest, flat[shown]))


_VIEWS = {"slice_scatter": torch.ops.aten.slice.Tensor, "select_scatter": torch.ops.aten.select.int}


@rule(name="split up", reads=(), several=True)
def put_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """`y[indices] = x`: x gets the relevance there, y the rest; what is written to one index shares it evenly.

    An x without rows, as where no box lies on a level of a pyramid, gets none.
    """
    base, indices, values, *_ = step.args
    ones = torch.ones(values.shape, dtype=relevance.dtype, device=relevance.device)
    times = torch.ops.aten.index_put(
        torch.zeros_like(relevance), indices, ones.expand_as(relevance[_slots(indices)]), True
    )
    there = (relevance / times.clamp(min=1))[_slots(indices)].sum_to_size(values.shape)
    rest = torch.where(times > 0, 0, relevance)
    return _to_inputs((base, values), (rest, there if there.numel() else None))


def _slots(indices: Any) -> tuple[Any, ...]:
    """Indices as `tensor[...]` takes them: None stands for a whole dimension."""
    return tuple(slice(None) if index is None else index for index in indices)


@rule(
    "topk[0]", "sort[0]", "kthvalue[0]", "median", "median[0]", "nanmedian", "nanmedian[0]", "mode[0]", "cummax[0]",
    "cummin[0]", name="move",
)  # fmt: skip
def to_the_chosen(step: Step, relevance: Tensor) -> Tensor:
    """The largest, all in order, or the middle one: each to the value that it is."""
    return back_through(step, step.input, relevance)


@rule("copy", name="move", reads=(), several=True)
def copy_back(step: Step, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """`y.copy_(x)`: all to x, whose value it is."""
    target, source, *_ = step.args
    return _to_inputs((target, source), (None, relevance.sum_to_size(source.shape)))
