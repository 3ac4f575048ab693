"""Maps brought to the size of the image, and smoothed, with every total kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(maps: Tensor, size: Sequence[int], smooth: float = 0.0) -> Tensor:
    """Bring maps (..., h, w) to a larger size, each cell handing out exactly what it holds.

    Bilinear, but for a factor: U = B diag(1 / Σ_rows B) along each side, with B the matrix of bilinear interpolation.
    Where H / h is a whole number this is bilinear interpolation divided by it; elsewhere its columns, which bilinear
    interpolation leaves uneven, add up to one. Being linear it keeps the total of any map, signed ones included,
    where dividing by what came out would break down as that approaches zero.

    With `smooth`, G U instead: G is a Gaussian mirrored at the border, so a pixel near it shares with itself what would
    fall outside. Rows and columns of G add up to one: totals are kept, and a constant map stays constant, where cutting
    the Gaussian off at the border and scaling would move relevance towards the middle.

    Args:
        maps: (..., h, w).
        size: (H, W), at least (h, w).
        smooth: standard deviation of the Gaussian, in pixels of (H, W); 0 for none.
    """
    height, width = size
    if tuple(maps.shape[-2:]) == (height, width) and not smooth:
        return maps
    rows, columns = (
        _hand_out(small, large, smooth).to(maps) for small, large in zip(maps.shape[-2:], size, strict=True)
    )
    return rows @ maps @ columns.T


@lru_cache(maxsize=64)  # of two sizes and a width; folders of pictures may come in any
def _hand_out(small: int, large: int, smooth: float) -> Tensor:
    """(large, small), each column adding up to one."""
    each = torch.eye(small, dtype=torch.float64)[:, None]
    weights = F.interpolate(each, large, mode="linear", align_corners=False)[:, 0].T
    weights = weights / weights.sum(0)
    if not smooth:
        return weights
    return _mirrored_gaussian(large, smooth) @ weights


def _mirrored_gaussian(length: int, sigma: float) -> Tensor:
    """(L, L), symmetric: Σ_m g(i - j + 2mL) + g(i + j + 1 + 2mL), the images of pixel j in mirrors at both ends."""
    at = torch.arange(length, dtype=torch.float64)
    reach = math.ceil(8 * sigma / (2 * length)) + 1
    bell = torch.zeros(length, length, dtype=torch.float64)
    for shift in range(-reach, reach + 1):
        for distance in (at[:, None] - at, at[:, None] + at + 1):
            bell += torch.exp(-((distance + 2 * shift * length) ** 2) / (2 * sigma**2))
    return bell / bell.sum(0)
