"""A part of an image, and the relevance in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.errors import UsageError


def region_sum(heatmap: Tensor, region: Any) -> Tensor:
    """Relevance of a region: Σ_p m_p R_p, with m_p the part of pixel p that the region covers.

    Args:
        heatmap: (N, H, W) or (N, K, H, W).
        region: see `coverage`; a mask may also be (N, H, W), one for each image.

    Returns:
        (N,) or (N, K), float64: the sum over thousands of pixels is not rounded to single precision.

    Raises:
        UsageError: as `coverage`.
    """
    covered = coverage(region, heatmap.shape[-2:], len(heatmap)).to(heatmap.device)
    if covered.dim() == 3 and heatmap.dim() == 4:
        covered = covered[:, None]
    return (heatmap.double() * covered).sum((-2, -1))


def coverage(region: Any, size: tuple[int, ...], count: int = 1) -> Tensor:
    """Which part of each pixel a region covers: (H, W), or (N, H, W) for such a mask; float64 from 0 to 1.

    Args:
        region: a mask (H, W) of booleans, or of numbers from 0 to 1, as array, tensor or lists; or a box
            (x0, y0, x1, y1) in pixels, x to the right and y down from the upper left corner of the image.
            (0, 0, W, H) is the whole image; of a pixel that an edge crosses, the covered part of its area counts.
        size: (H, W) of the image.
        count: N.

    Raises:
        UsageError: neither a mask of that size nor a box within the image.
    """
    height, width = size
    try:
        given = torch.as_tensor(region).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise _no_region(f"a {type(region).__name__}", height, width) from None
    if given.shape == (4,):
        return _box(given.tolist(), height, width)
    if given.shape not in ((height, width), (count, height, width)):
        raise _no_region(f"numbers of shape {tuple(given.shape)}", height, width)
    if not bool(((given >= 0) & (given <= 1)).all()):  # also false of NaN
        low, high = given.min().item(), given.max().item()
        raise UsageError(
            f"a mask holds booleans or numbers from 0 to 1; this one's run from {low:g} to {high:g}. "
            "Of labels or bytes, pass mask == label, or mask > 0"
        )
    return given


def _box(box: list[float], height: int, width: int) -> Tensor:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UsageError(
            f"a box is x0,y0,x1,y1 in pixels with 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} in this image; "
            f"not {','.join(f'{value:g}' for value in box)}"
        )
    return _covered(y0, y1, height)[:, None] * _covered(x0, x1, width)


def _covered(start: float, end: float, length: int) -> Tensor:
    """Part of each interval [i, i + 1], i < length, that lies in [start, end]."""
    first = torch.arange(length, dtype=torch.float64)
    return ((first + 1).clamp(max=end) - first.clamp(min=start)).clamp(min=0)


def _no_region(found: str, height: int, width: int) -> UsageError:
    return UsageError(
        f"a region is a box (x0, y0, x1, y1), or a mask of the image's {height} rows and {width} columns; not {found}"
    )


def sentence(row: dict[str, Any]) -> str:
    """Say what a region holds: "the box 40,20,120,110 holds 41.2 % of the score, on 12.0 % of the image"."""
    name = f"the {row['kind']} {row['region']}"
    if row["area"] == 0:
        return f"{name} lies outside the crop that the network sees, so it holds nothing of the score"
    return f"{name} holds {100 * row['share']:.1f} % of the score, on {100 * row['area']:.1f} % of the image"
