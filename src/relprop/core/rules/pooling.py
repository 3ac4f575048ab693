"""Rules for pooling: max pooling and the averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.graph.convolution import ConvGeometry, each
from relprop.core.graph.graph import with_defaults
from relprop.core.rules.affine import quotient, stabilised_quotient
from relprop.core.rules.rule import Rule, Step, rule
from relprop.core.rules.shape import inverse
from relprop.errors import UnsupportedOpError

aten = torch.ops.aten


@rule("max_pool", "adaptive_max_pool")
def winner_takes_all(step: Step, relevance: Tensor) -> Tensor:
    """All relevance of a window goes to its largest member that depends on the image, the first of several."""
    value, dims, support = step.input, _dims(step), step.supports[0]
    if support is not None:
        value = torch.where(support.to(value.device), value, -torch.inf)
    flat_value, flat_relevance = value.flatten(-dims), relevance.flatten(-dims)
    indices = _winners(step, value, dims).flatten(-dims)
    return torch.zeros_like(flat_value).scatter_add_(-1, indices, flat_relevance).view_as(value)


@rule("amax", "amin", "max[0]", "min[0]", name="winner of dimensions")
def winner_of_dimensions(step: Step, relevance: Tensor) -> Tensor:
    """As `winner_takes_all`, where the largest (or smallest) number along whole dimensions is taken."""
    value, support = step.input, step.supports[0]
    least = step.node.op in ("amin", "min[0]")
    value = -value if least else value
    if support is not None:
        value = torch.where(support.to(value.device), value, -torch.inf)
    dims = _reduced(step)
    kept = [dim for dim in range(value.dim()) if dim not in dims]
    rows = value.permute(*kept, *dims).flatten(len(kept))
    winners = rows.argmax(-1, keepdim=True)
    given = relevance.squeeze(dims) if _keeps(step) else relevance
    shared = torch.zeros_like(rows).scatter_(-1, winners, given.unsqueeze(-1))
    return shared.view([value.shape[dim] for dim in (*kept, *dims)]).permute(inverse((*kept, *dims)))


def _winners(step: Step, value: Tensor, dims: int) -> Tensor:
    """Index of each window's largest member within the flattened plane."""
    arguments = [*step.args[1:]]
    if step.node.op == "adaptive_max_pool":
        pool: Callable[..., Any] = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[dims - 1]
        winners: Tensor = pool(value, *arguments, return_indices=True)[1]
        return winners
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    options = dict(zip(names, arguments, strict=False))
    options["stride"] = options.get("stride") or options["kernel_size"]
    indices: Tensor = pool(value, **options, return_indices=True)[1]
    return indices


def _dims(step: Step) -> int:
    """Number of pooled dimensions: the name of ATen's operation ends with it."""
    name: str = step.node.call._schema.name if hasattr(step.node.call, "_schema") else ""
    digits = [int(letter) for letter in name if letter.isdigit()]
    return digits[-1] if digits else len(step.shapes[0]) - 2


@rule("avg_pool", "adaptive_avg_pool", "mean", "sum", name="z+ average")
def average_z_plus(step: Step, relevance: Tensor) -> Tensor:
    """The z⁺-rule for an average or sum: members of a window share by their positive value.

        R_i = h⁺_i Σ_j R_j / Σ_k h⁺_k,   k in the window of j

    The divisor of the average cancels. A window without a positive member shares evenly over those that depend
    on the image.
    """
    return _share_average(step, relevance, *average(step))


Linear = Callable[[Tensor], Tensor]


def average(step: Step) -> tuple[Linear, Linear]:
    """An average, or a sum over whole dimensions, as a weighted sum and its transpose."""
    if step.node.op not in ("mean", "sum"):
        return lambda value: step.node.call(value, *step.args[1:], **step.kwargs), partial(_transpose, step)
    dims, keeps, shape = _reduced(step), _keeps(step), step.shapes[0]
    weight = 1 / math.prod(shape[dim] for dim in dims) if step.node.op == "mean" else 1.0

    def widen(value: Tensor) -> Tensor:
        for dim in sorted(dims) if not keeps else ():
            value = value.unsqueeze(dim)
        return (value * weight).expand(shape)

    return lambda value: value.sum(dims, keepdim=keeps) * weight, widen


def _keeps(step: Step) -> bool:
    """Whether a step that reduces dimensions keeps them as ones."""
    return len(step.args) > 2 and bool(step.args[2])


def _reduced(step: Step) -> tuple[int, ...]:
    given = step.args[1] if len(step.args) > 1 else None
    rank = len(step.shapes[0])
    given = [given] if isinstance(given, int) else given or range(rank)
    return tuple(dim % rank for dim in given)


def _share_average(step: Step, relevance: Tensor, forward: Linear, transpose: Linear) -> Tensor:
    support = step.supports[0]
    above = step.input if step.nonnegative[0] else step.input.clamp(min=0)
    members = above.new_ones(()) if support is None else support.to(above)
    # of one image, unless the first dimension is itself averaged: an ensemble's, stacked before the batch
    counted = step.node.op in ("mean", "sum") and 0 in _reduced(step)
    members = members.expand(above.shape if counted else (1, *above.shape[1:]))
    return _shared(above, relevance, forward, transpose, members)


def _shared(value: Tensor, relevance: Tensor, forward: Linear, transpose: Linear, members: Tensor) -> Tensor:
    """Share by `value`, nowhere negative; where all of a window is zero, evenly between its `members` (1, else 0)."""
    divided, dead = quotient(relevance, forward(value))
    shared = value * transpose(divided)
    if dead is None:
        return shared
    return shared + members * transpose(quotient(dead, forward(members))[0])


def _transpose(step: Step, value: Tensor) -> Tensor:
    """Transpose of the average over the windows of a pooling, by ATen's own backward of it."""
    like = value.new_empty((value.shape[0], *step.shapes[0][1:]))
    dims = _dims(step)
    if step.node.op == "avg_pool":
        backward, arguments = (aten.avg_pool2d_backward, aten.avg_pool3d_backward), _pool_arguments(step, dims)
    else:
        backward, arguments = (aten._adaptive_avg_pool2d_backward, aten._adaptive_avg_pool3d_backward), ()
    sent_back: Tensor
    if dims == 1:
        sent_back = backward[0](value.unsqueeze(-2), like.unsqueeze(-2), *arguments)
        return sent_back.squeeze(-2)
    sent_back = backward[dims - 2](value, like, *arguments)
    return sent_back


def _pool_arguments(step: Step, dims: int) -> tuple[Any, ...]:
    """(kernel, stride, padding, ceil_mode, count_include_pad, divisor), one-dimensional ones as rows."""
    kernel, stride, padding, ceil, include, divisor = with_defaults(step.args[1:], None, [], 0, False, True, None)
    kernel = each(kernel, dims)
    stride = each(stride, dims) if stride else kernel
    padding = each(padding, dims)
    if dims == 1:
        kernel, stride, padding = (1, *kernel), (1, *stride), (0, *padding)
    return kernel, stride, padding, ceil, include, divisor


@rule(name="max as average")
def max_as_average(step: Step, relevance: Tensor) -> Tensor:
    """Treat max pooling as an average over the same windows, by the z⁺-rule."""
    if step.node.op == "adaptive_max_pool":
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[_dims(step) - 1]
        return _share_average(step, relevance, lambda v: pool(v, step.args[1]), partial(_transpose, step))
    windows, ones = _windows(step, relevance)
    like = step.input.new_empty(step.shapes[0])
    forward, back = lambda v: windows.forward(v, ones), lambda v: windows.transpose(v, ones, like)
    return _share_average(step, relevance, forward, back)


def _windows(step: Step, relevance: Tensor) -> tuple[ConvGeometry, Tensor]:
    """The windows of a max pooling as a convolution of each channel with ones; `ceil_mode` is padding behind."""
    kernel, stride, padding, dilation, _ = with_defaults(step.args[1:], None, [], 0, 1, False)
    dims = _dims(step)
    kernel, padding, dilation = (each(value, dims) for value in (kernel, padding, dilation))
    stride = each(stride, dims) if stride else kernel
    channels, *size = step.shapes[0][1:]
    behind = [
        (out - 1) * s + d * (k - 1) + 1 - p - extent
        for out, s, d, k, p, extent in zip(relevance.shape[2:], stride, dilation, kernel, padding, size, strict=True)
    ]
    before = tuple(amount for pair in reversed([*zip(padding, behind, strict=True)]) for amount in pair)
    ones = step.input.new_ones((channels, 1, *kernel))
    zeros = (0,) * dims
    return (
        ConvGeometry(tuple(ones.shape), tuple(stride), zeros, tuple(dilation), False, zeros, channels, before),
        ones,
    )


@rule("roi_align", name="z+ average in boxes")
def average_in_boxes(step: Step, relevance: Tensor) -> Tensor:
    """Share each cell of a box by positive contribution (z⁺-rule, Eq. 2): RoI align is a weighted average.

        R_i = Σ_j w_ji max(0, h_i) / Σ_k w_jk max(0, h_k) · R_j

    w_ji ≥ 0 are the weights of bilinear interpolation at the samples of cell j, averaged (He et al. 2017); boxes are
    constants. A cell that nothing positive excites shares by w_ji. Maps (K, C, h, w) to (N, C, H, W).
    """
    boxes, *options = step.args[1:]
    value, support = step.input, step.supports[0]
    backward: Any = torch.ops.torchvision._roi_align_backward
    scale, height, width, samples, aligned = options

    def forward(h: Tensor) -> Tensor:
        averaged: Tensor = step.node.call(h, boxes, *options)
        return averaged

    def transpose(r: Tensor) -> Tensor:
        shared: Tensor = backward(r.contiguous(), boxes, scale, height, width, *value.shape, samples, aligned)
        return shared

    there = torch.ones_like(value) if support is None else support.to(value).expand_as(value)
    return _shared(value.clamp(min=0) * there, relevance, forward, transpose, there)


def signed_average(eps: float = 1e-6) -> Rule:
    """Averages by signed contribution: R_i = h_i Σ_j a_ji R_j / (Σ_k a_jk h_k + ε sign). Absorbs the share of ε."""

    def share(step: Step, relevance: Tensor) -> Tensor:
        forward, transpose = average(step)
        return step.input * transpose(stabilised_quotient(relevance, forward(step.input), eps))

    return Rule(f"average ε={eps:g}" if eps else "average", share, conserves=False, positive=False)


def average_epsilon(eps: float = 1e-5, *, window: int | None = None) -> Rule:
    """Averages as the authors released them: R_i = h_i Σ_j a_ji R_j / (Σ_k a_jk h_k + ε), a the average's weights.

    Args:
        eps: unsigned; it absorbs relevance.
        window: take the step for an average over windows of this size and stride, whatever it is: the release
            puts a 2x2 average in place of the 3x3 max pooling.
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        value = step.input
        if window is None:
            forward, transpose = average(step)
            return value * transpose(relevance / (forward(value) + eps))
        averaged = F.avg_pool2d(value, window)
        if averaged.shape != relevance.shape:
            raise UnsupportedOpError(
                f"released() takes {step.node.name} for a {window}x{window} average of stride {window}, which gives "
                f"{tuple(averaged.shape[2:])} where the model has {tuple(relevance.shape[2:])}; use paper()"
            )
        sent_back: Tensor = aten.avg_pool2d_backward(
            relevance / (averaged + eps), value, [window] * 2, [window] * 2, [0, 0], False, True, None
        )
        return value * sent_back

    return Rule(f"average {f'{window}x{window} ' if window else ''}ε={eps:g}", share, conserves=False, positive=False)
