"""Heat Quantization: a heatmap in few levels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from relprop.errors import UsageError

Edges = Literal["equation", "release"]


def quantize(heatmap: Tensor, levels: int = 8, edges: Edges = "equation") -> Tensor:
    """Heat Quantization (Eq. 8): floor each map to levels of equal width between its extremes.

        level = ⌊(R - min) / width⌋,   width = (max - min) / Q,   value = min + width · level

    The paper's formula multiplies the level by Q, which leaves the range of values; the bin's width is meant. The
    order of pixels is the same.

    Args:
        heatmap: (..., H, W), each map on its own.
        levels: Q.
        edges: "equation": Q intervals, the maximum on a level of its own (Q + 1 values); "release": every value
            falls to the edge below it among `linspace(min, max, Q)`, so Q - 1 intervals and Q values.

    Returns:
        (..., H, W); a constant map returns unchanged.

    Raises:
        UsageError: fewer than 1 level (2 for "release"), or an unknown kind of edges.
    """
    if edges not in ("equation", "release"):
        raise UsageError(f"edges must be 'equation' or 'release', not {edges!r}")
    if levels < (2 if edges == "release" else 1):
        raise UsageError(f"levels must be at least {2 if edges == 'release' else 1} for edges={edges!r}, not {levels}")
    maps = heatmap.detach().to(torch.float64 if heatmap.dtype == torch.float64 else torch.float32).flatten(-2)
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    count = levels + 1 if edges == "equation" else levels
    steps = torch.arange(count, dtype=maps.dtype, device=maps.device) / (count - 1)
    grid = low + (high - low) * steps
    grid[..., -1:] = high
    level = torch.searchsorted(grid, maps.contiguous(), right=True).sub_(1).clamp_(0, count - 1)
    # an image whose range is below rounding has equal edges: leave it as it is
    return torch.where(high > low, grid.gather(-1, level), maps).view(heatmap.shape)
