"""Post-processing: named steps that any heatmap can take before it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.heatmap import Edges, quantize
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
    """Heat Quantization (Eq. 8): floor each map to equal levels between its extremes.

    Attributes:
        levels: Q.
        edges: "equation" (Q + 1 values) or "release" (Q values).
    """

    levels: int = 8
    edges: Edges = "equation"

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        return quantize(heatmap, self.levels, self.edges)


@POST.register("smooth")
@dataclass(frozen=True)
class Smooth:
    """Gaussian blur that keeps each map's total: at the border a pixel shares among the neighbours that exist.

    Attributes:
        sigma: standard deviation in pixels.
    """

    sigma: float = 2.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"smooth needs a positive width in pixels, not {self.sigma}")

    def __call__(self, heatmap: Tensor) -> Tensor:
        """(N, H, W) -> (N, H, W)."""
        reach = math.ceil(4 * self.sigma)
        distance = torch.arange(-reach, reach + 1, device=heatmap.device, dtype=torch.float64)
        kernel = torch.exp(-(distance**2) / (2 * self.sigma**2))
        maps = heatmap.detach().double()[:, None]
        shares = _blur(torch.ones_like(maps[:1]), kernel)
        return _blur(maps / shares, kernel)[:, 0].to(heatmap.dtype)


def _blur(maps: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (N, 1, H, W) with a symmetric kernel along both sides; beyond the border is nothing."""
    reach = len(kernel) // 2
    maps = F.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, reach))


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
