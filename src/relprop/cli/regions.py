"""Regions of a photograph, given as boxes or masks: which part of the score each holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.errors import InputError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from relprop.images import Preprocess

Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1",
        help="Say which share of the score this box of the photograph holds: pixels of the file, from its upper left "
        "corner; repeatable.",
    ),
]
Masks = Annotated[
    list[Path] | None,
    typer.Option(
        "--mask", metavar="FILE", help="The same of a mask, a PNG of the photograph's size, not 0 inside; repeatable."
    ),
]


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a photograph."""

    text: str  # as it was given
    box: tuple[float, ...] | None = None  # (x0, y0, x1, y1) in pixels of the photograph, or None
    mask: Image | None = None  # 255 inside and 0 outside, or None

    def seen(self, prepare: Preprocess, size: tuple[int, int]) -> Tensor:
        """Which part of each pixel of the network's input the region covers: (H, W), float64.

        A mask is resized and cropped as the photograph of `size` (width, height) is. What the network does not see is
        left out.
        """
        import numpy as np
        import torch

        from relprop.core.result.region import coverage

        if self.box is not None:
            inside = prepare.box(self.box, size)
            whole = (prepare.size, prepare.size)
            return torch.zeros(whole, dtype=torch.float64) if inside is None else coverage(inside, whole)
        assert self.mask is not None
        if self.mask.size != size:
            raise InputError(
                "the mask {} is {} x {} pixels and the photograph {} x {}; ".format(self.text, *self.mask.size, *size)
                + "a mask is of the photograph's size"
            )
        return torch.from_numpy(np.array(prepare.crop(self.mask).convert("L"))).double() / 255


def read_regions(boxes: list[str] | None, masks: list[Path] | None) -> tuple[Region, ...]:
    """Read `--box` and `--mask`."""
    from relprop.images import read_mask

    return (
        *(Region(text, _box(text)) for text in boxes or ()),
        *(Region(str(path), mask=read_mask(path)) for path in masks or ()),
    )


def _box(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 4 or not all(map(math.isfinite, found)) or found[0] >= found[2] or found[1] >= found[3]:
        raise UsageError(
            f"--box takes x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1, such as 40,20,120,110; not {text!r}"
        )
    return found


def measure(region: Region, covered: Tensor, heatmap: Tensor, score: float) -> dict[str, Any]:
    """Relevance of a region of one image, as JSON knows it: of `covered` (H, W) in the heatmap (1, H, W)."""
    from relprop.core.result.region import region_sum

    total = float(region_sum(heatmap.cpu(), covered)[0])
    return {
        "region": region.text,
        "kind": "mask" if region.box is None else "box",
        "sum": total,
        "share": total / score if score else math.nan,
        "area": float(covered.mean()),
    }
