"""Post-processing: named steps that any heatmap can take before it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from relprop.core.result.enlarge import enlarge
from relprop.core.result.quantize import Edges, quantize
from relprop.errors import UsageError
from relprop.explainers.base import POST


@POST.register("none")
@dataclass(frozen=True)
class Unchanged:
    """The heatmap as it is."""

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        return heatmap


@POST.register("quantize")
@dataclass(frozen=True)
class Quantize:
    """Heat Quantization (Eq. 8): floor each map to equal levels between its extremes."""

    levels: int = 8  # Q
    edges: Edges = "equation"  # "equation" (Q + 1 values) or "release" (Q values)

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        return quantize(heatmap, self.levels, self.edges)


@POST.register("smooth")
@dataclass(frozen=True)
class Smooth:
    """Gaussian blur, mirrored at the border, which keeps each map's total (`relprop.core.result.enlarge`)."""

    sigma: float = 2.5  # standard deviation in pixels

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"smooth needs a positive width in pixels, not {self.sigma}")

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        return enlarge(heatmap.detach().double(), heatmap.shape[-2:], self.sigma).to(heatmap.dtype)


@POST.register("positive")
@dataclass(frozen=True)
class Positive:
    """The positive part; all else becomes 0, and tied."""

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        return heatmap.clamp(min=0)


@POST.register("absolute")
@dataclass(frozen=True)
class Absolute:
    """The magnitude, whatever the sign."""

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        return heatmap.abs()
