"""Convolutions as two functions of weight and value: forwards (`forward`) and transposed (`transpose`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.graph.graph import with_defaults

aten = torch.ops.aten


@dataclass(frozen=True)
class ConvGeometry:
    """Everything of a convolution but its weight and input.

    Attributes:
        weight_shape: (out, in / groups, *kernel), or (in, out / groups, *kernel) where transposed.
        before: padding put on the input first, as `F.pad` takes it; only uneven "same" padding needs it.
    """

    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    before: tuple[int, ...] = ()

    @cached_property
    def text(self) -> str:
        """All of it in a few letters."""
        return f"s{self.stride}p{self.padding}d{self.dilation}g{self.groups}"

    def forward(self, value: Tensor, weight: Tensor) -> Tensor:
        """W h: (N, in, *size) -> (N, out, *size')."""
        if self.before:
            value = F.pad(value, self.before)
        computed: Tensor = aten.convolution(
            value, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups,
        )  # fmt: skip
        return computed

    def transpose(self, value: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Wᵀ s: (N, out, *size') -> the shape of `like`, whose values are not read."""
        if self.before:
            like = F.pad(like, self.before)
        mask = [True, False, False]
        grad = aten.convolution_backward(
            value, like, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups, mask,
        )[0]  # fmt: skip
        return F.pad(grad, [-amount for amount in self.before]) if self.before else grad

    def size(self, given: Sequence[int]) -> tuple[int, ...]:
        """Size of the output for inputs of a size, of a convolution that is not transposed."""
        parts = zip(given, self.weight_shape[2:], self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in parts)

    @property
    def outputs_per_group(self) -> int:
        """Output channels that share a receptive field."""
        return self.weight_shape[1] if self.transposed else self.weight_shape[0] // self.groups

    @property
    def inputs_per_group(self) -> int:
        """Input channels in a receptive field."""
        return self.weight_shape[0] // self.groups if self.transposed else self.weight_shape[1]

    @property
    def may_see_padding_alone(self) -> bool:
        """Whether an output can exist whose receptive field holds nothing but padding."""
        if self.transposed:
            return any(stride > 1 or pad for stride, pad in zip(self.stride, self.output_padding, strict=False))
        extents = (
            dilation * (kernel - 1) for dilation, kernel in zip(self.dilation, self.weight_shape[2:], strict=False)
        )
        reach = zip(self.padding, extents, self.dilation, strict=False)
        return bool(self.before) or any(pad > extent or (pad and dilation > 1) for pad, extent, dilation in reach)

    @property
    def one_channel_a_group(self) -> ConvGeometry:
        """The same geometry where each group has one channel, in and out."""
        return replace(self, weight_shape=(self.groups, 1, *self.weight_shape[2:]))

    def kernel_of_ones(self, like: Tensor) -> Tensor:
        """The weight of `one_channel_a_group` that adds up a receptive field."""
        return like.new_ones((self.groups, 1, *self.weight_shape[2:]))

    def count(self, mask: Tensor) -> Tensor:
        """Number of inputs in the receptive field of each output: mask (1, in, *size) -> (1, groups, *size')."""
        return self.one_channel_a_group.forward(_sum_groups(mask, self.groups), self.kernel_of_ones(mask))

    def spread(
        self, value: Tensor, size: Sequence[int], mask: Tensor | None, back: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Send each output's value to every input of its receptive field: the transpose with all weights one.

        (N, out, *size') -> (N, in, *size), zero where `mask` (1, in, *size) is; None masks nothing. `back` is the
        transpose of `one_channel_a_group` with ones, where it is at hand.
        """
        sums = _sum_groups(value, self.groups)
        if back is None:
            like = value.new_empty((value.shape[0], self.groups, *size))
            spread = self.one_channel_a_group.transpose(sums, self.kernel_of_ones(value), like)
        else:
            spread = back(sums)
        spread = spread.unsqueeze(2).expand(-1, -1, self.inputs_per_group, *spread.shape[2:]).flatten(1, 2)
        return spread if mask is None else spread * mask


def _sum_groups(value: Tensor, groups: int) -> Tensor:
    if value.shape[1] == groups:
        return value
    return value.reshape(value.shape[0], groups, -1, *value.shape[2:]).sum(2)


def conv_geometry(call: Any, args: tuple[Any, ...]) -> ConvGeometry:
    """Read a convolution's geometry off its arguments, whichever of ATen's spellings it has."""
    given = tuple(tuple(part) if isinstance(part, list) else part for part in args[3:])
    return _geometry(call._schema.name.removeprefix("aten::"), tuple(args[1].shape), given)


@lru_cache(maxsize=4096)
def _geometry(name: str, weight_shape: tuple[int, ...], arguments: tuple[Any, ...]) -> ConvGeometry:
    dims = len(weight_shape) - 2
    given = [*arguments]
    if name in ("convolution", "_convolution"):  # the latter as traced, with flags for cuDNN behind
        stride, padding, dilation, transposed, output_padding, groups = given[:6]
    elif name.startswith("conv_transpose"):
        stride, padding, output_padding, groups, dilation = with_defaults(given, 1, 0, 0, 1, 1)
        transposed = True
    else:
        stride, padding, dilation, groups = with_defaults(given, 1, 0, 1, 1)
        transposed, output_padding = False, 0
    before: tuple[int, ...] = ()
    if isinstance(padding, str):
        padding, before = _same(padding, weight_shape[2:], each(dilation, dims))
    return ConvGeometry(
        weight_shape, each(stride, dims), each(padding, dims), each(dilation, dims), bool(transposed),
        each(output_padding, dims), int(groups), before,
    )  # fmt: skip


def each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A size, stride or padding for each of `dims` dimensions."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _same(padding: str, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding of the names "valid" and "same"; an even kernel pads one more behind than before."""
    if padding == "valid":
        return (0,) * len(kernel), ()
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return tuple(total // 2 for total in totals), ()
    ends = [(total // 2, total - total // 2) for total in totals]
    return (0,) * len(kernel), tuple(amount for pair in reversed(ends) for amount in pair)
