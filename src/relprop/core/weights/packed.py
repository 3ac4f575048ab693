"""Convolutions with weights laid out once as oneDNN wants them, on CPUs.

PyTorch's own convolution rearranges a weight at every call, which at few images costs as much as the convolution.
The operations here are those that `torch.compile` puts into frozen networks; where this build of PyTorch has none,
or they compute something else, `available` says so, and convolutions run as usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.graph.convolution import ConvGeometry


@dataclass(frozen=True)
class Phases:
    """A strided transpose with few outputs, such as the first layer's back to three colours, without stride.

    Row s i + a of the result is Σ_d value[i + d] weight[a + p - s d]: for each phase a = 0 .. s - 1 a convolution
    without stride. All phases are one convolution of s² times the channels, which `pixel_shuffle` puts in place;
    oneDNN's own transpose takes three times as long at three channels.

    Attributes:
        stride: s.
        first, last: least and largest d.
    """

    stride: int
    first: int
    last: int

    @classmethod
    def of(cls, geometry: ConvGeometry) -> Phases | None:
        """The phases of a convolution's transpose; None where they are of no use."""
        (inputs, *kernel), (stride, other) = geometry.weight_shape[1:], geometry.stride
        square = stride == other and kernel[0] == kernel[1] and geometry.padding[0] == geometry.padding[1]
        if not square or stride == 1 or inputs > 4 or geometry.groups > 1 or geometry.dilation != (1, 1):
            return None
        padding = geometry.padding[0]
        first, last = -((kernel[0] - 1 - padding) // stride), (stride - 1 + padding) // stride
        return cls(stride, first, last)

    def weight(self, geometry: ConvGeometry, weight: Tensor) -> Tensor:
        """(in s², out, taps, taps), zero where a phase has no weight."""
        s, padding, size = self.stride, geometry.padding[0], weight.shape[2]
        taps = self.last - self.first + 1
        reach = [(a, d, a + padding - s * (d + self.first)) for a in range(s) for d in range(taps)]
        inside = [(a, d, k) for a, d, k in reach if 0 <= k < size]
        made = weight.new_zeros(weight.shape[1], s, s, weight.shape[0], taps, taps)
        for a, d, k in inside:
            for b, e, j in inside:
                made[:, a, b, :, d, e] = weight[:, :, k, j].t()
        return made.flatten(0, 2)

    def transpose(self, value: Tensor, packed: Tensor, outward: tuple[int, ...]) -> Tensor:
        """The transpose, in the size `outward`."""
        rows = [-(-size // self.stride) for size in outward]
        pad = max(-self.first, *(n + self.last - have for n, have in zip(rows, value.shape[2:], strict=True)))
        phases: Tensor = torch.ops.mkldnn._convolution_pointwise(
            value, packed, None, [pad, pad], [1, 1], [1, 1], 1, "none", [], ""
        )
        start = pad + self.first
        phases = phases[:, :, start : start + rows[0], start : start + rows[1]]
        return F.pixel_shuffle(phases, self.stride)[:, :, : outward[0], : outward[1]]


@dataclass(frozen=True, eq=False)
class Packed:
    """A convolution or its transpose, ready to run.

    Attributes:
        geometry: of the convolution.
        weight: opaque; of a `plain` one, the weight as it is.
        transposed: whether it is the transpose that was packed.
        phases: the transpose as a plain convolution that gives all phases of the stride at once, if that is faster.
        plain: whether PyTorch's own convolution is run, see `is_light`.
    """

    geometry: ConvGeometry
    weight: Tensor
    transposed: bool = False
    phases: Phases | None = None
    plain: bool = False

    def forward(self, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """W h + b: (N, in, H, W) -> (N, out, H', W')."""
        g = self.geometry
        if self.plain:
            return torch.conv2d(value, self.weight, bias, g.stride, g.padding, g.dilation, g.groups)
        computed: Tensor = torch.ops.mkldnn._convolution_pointwise(
            value, self.weight, bias, g.padding, g.stride, g.dilation, g.groups, "none", [], ""
        )
        return computed

    def transpose(self, value: Tensor, outward: tuple[int, ...]) -> Tensor:
        """Wᵀ s: (N, out, H', W') -> (N, in, H, W), in the size `outward`."""
        g = self.geometry
        if self.phases is not None:
            return self.phases.transpose(value, self.weight, outward)
        if self.plain:
            size = value.shape[0], g.weight_shape[1] * g.groups, *outward
            goal = torch.empty(size, dtype=value.dtype, memory_format=torch.channels_last)
            return g.transpose(value, self.weight, goal)
        sent_back: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            value, self.weight, None, g.padding, _left_over(g, value.shape[2:], outward), g.stride, g.dilation,
            g.groups, "none", [], "",
        )  # fmt: skip
        return sent_back


def _left_over(geometry: ConvGeometry, size: torch.Size, outward: tuple[int, ...]) -> list[int]:
    """Rows and columns at the end that the convolution's stride left out."""
    kernel = geometry.weight_shape[2:]
    parts = zip(size, outward, geometry.stride, geometry.padding, geometry.dilation, kernel, strict=True)
    return [out - ((n - 1) * s - 2 * p + d * (k - 1) + 1) for n, out, s, p, d, k in parts]


def packs(geometry: ConvGeometry, value: Tensor, weight: Tensor, *, inward: bool = True) -> bool:
    """Whether this convolution, or its transpose, can be packed: two dimensions, on a CPU, in float32 or bfloat16."""
    return (
        weight.dim() == 4
        and value.dim() == 4
        and not geometry.transposed
        and not geometry.before
        and weight.dtype == value.dtype
        and (value.dtype == torch.float32 or (value.dtype == torch.bfloat16 and _has_bf16()))
        and value.is_cpu
        and weight.is_cpu
        and weight.numel() > 0
        and value.shape[1] == (weight.shape[1] * geometry.groups if inward else weight.shape[0])
        and available()
    )


#: of more numbers in an image, PyTorch's own convolution takes oneDNN too
LIGHT = 20480


def is_light(geometry: ConvGeometry, size: Sequence[int]) -> bool:
    """Whether a convolution of inputs of `size` (N, in, H, W) is so small that calling oneDNN takes longer."""
    outputs, *kernel = geometry.weight_shape[0], *geometry.weight_shape[2:]
    taps = math.prod(geometry.weight_shape[1:])
    small = size[0] == 1 and math.prod(size) <= LIGHT and geometry.groups == 1 and max(kernel) <= 3
    return small and outputs * taps <= LIGHT * 2 and taps * math.prod(geometry.size(size[2:])) <= LIGHT * 4


def pack_forward(geometry: ConvGeometry, weight: Tensor, size: torch.Size) -> Packed:
    """Pack a convolution of inputs of `size` (N, in, H, W); other batches and sizes run too, if not as fast."""
    g = geometry
    single = g.weight_shape[0] == 1  # a batch of single numbers would be computed wrongly
    if single or (is_light(g, size) and weight.dtype == torch.float32):
        return Packed(g, weight, plain=True)
    return Packed(
        g,
        torch.ops.mkldnn._reorder_convolution_weight(weight, g.padding, g.stride, g.dilation, g.groups, [*size]),
    )


def pack_transpose(geometry: ConvGeometry, weight: Tensor, size: torch.Size, outward: tuple[int, ...]) -> Packed:
    """Pack the transpose of a convolution, from `size` (N, out, H', W') to images of `outward` (H, W); others run."""
    g = geometry
    if is_light(g, (size[0], g.weight_shape[1], *outward)) and weight.dtype == torch.float32:
        return Packed(g, weight, True, plain=True)
    phases = Phases.of(g)
    if phases is not None:
        made = phases.weight(g, weight)
        padded = [*size[:2], *(max(n, made.shape[2]) for n in size[2:])]
        packed = torch.ops.mkldnn._reorder_convolution_weight(made, [0, 0], [1, 1], [1, 1], 1, padded)
        return Packed(g, packed, True, phases)
    left = _left_over(g, size[2:], outward)
    return Packed(
        g,
        torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, g.padding, left, g.stride, g.dilation, g.groups, [*size]
        ),
        True,
    )


@cache
def _has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def available() -> bool:
    """Whether this build has the operations, and they agree with PyTorch's convolution on a small example."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    geometry = ConvGeometry((4, 3, 3, 3), (2, 2), (1, 1), (1, 1), False, (0, 0), 1)
    weight = torch.linspace(-1, 1, 108).reshape(4, 3, 3, 3)
    value = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    try:
        computed = pack_forward(geometry, weight, value.shape).forward(value)
        sent_back = pack_transpose(geometry, weight, computed.shape, (8, 8)).transpose(computed, (8, 8))
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    expected = F.conv2d(value, weight, stride=2, padding=1)
    back = F.conv_transpose2d(expected, weight, stride=2, padding=1, output_padding=1)
    return torch.allclose(computed, expected, atol=1e-4) and torch.allclose(sent_back, back, atol=1e-3)
