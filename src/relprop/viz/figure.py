"""All maps of a result in one figure, with one scale."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from relprop.errors import InputError
from relprop.viz.colour import PERCENTILE, Scale, Unit, shared_scale
from relprop.viz.overlay import QUIET, blend, caption, draw_bar, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relprop.core.result.relevance import Relevance

_CELL = 2.3  # inches


def figure(
    result: Relevance,
    images: Sequence[Any] | None = None,
    *,
    limit: int = 12,
    columns: int = 4,
    unit: Unit | None = None,
    percentile: float | None = PERCENTILE,
    scale: Scale | None = None,
    dpi: float = 110,
) -> Figure:
    """Draw the maps of a result side by side, on one scale: a colour means the same relevance in all of them.

    Args:
        result: of N images, or of N images by K classes (one row an image).
        images: the N pictures the network saw, see `blend`; None draws the maps alone.
        limit: at most so many maps are drawn; the figure says how many are left out.
        columns: maps a row, where each image has one.
        unit: "raw" relevance, or each map as a "share" of its own score; None takes shares where relevance is of
            classes and nowhere negative.
        percentile: end of the display range over all maps drawn, see `scale_of`.
        scale: fixed colours instead, to compare with another figure.
        dpi: dots an inch.

    Raises:
        InputError: relevance of something other than images, or another number of pictures.
    """
    if result.relevance.dim() - result.target.dim() != 3:
        raise InputError(f"only maps of images can be drawn, not relevance of shape {tuple(result.relevance.shape)}")
    if images is not None and len(images) != len(result.target):
        raise InputError(f"there are {len(images)} pictures for {len(result.target)} images")
    each = 1 if result.target.dim() == 1 else result.target.shape[1]
    columns = min(columns, len(result.target)) if each == 1 else each
    total = result.target.numel()
    count = min(total, limit)
    maps = result.heatmap.flatten(0, result.target.dim() - 1)[:count].detach().cpu().double().numpy()
    targets, scores = result.target.flatten()[:count], result.score.flatten()[:count]
    parts = maps.min() >= -1e-5 * abs(maps).max() and bool((scores > 0).all())  # signed relevance may cancel
    unit = unit or ("share" if parts and not result.what else "raw")
    if unit == "share":
        maps = maps / scores.where(scores != 0, 1).cpu().double().numpy()[:, None, None]
    scale = scale or shared_scale([*maps], percentile=percentile, score=1.0 if unit == "share" else None)
    rows = math.ceil(count / columns)
    height = _CELL * maps.shape[1] / maps.shape[2]
    drawn = Figure(figsize=(_CELL * columns + 0.9, (height + 0.3) * rows + 0.35), dpi=dpi, layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for index, ax in enumerate(axes.flat):
        if index >= count:
            ax.set_axis_off()
            continue
        image = None if images is None else images[index // each]
        picture(ax, blend(image, maps[index], scale))
        words = "\n".join(textwrap.wrap(caption(result, targets[index], scores[index]), 30))
        ax.set_title(words, fontsize=8, color="#1f1f1f")
    draw_bar(axes, scale)
    rest = f"; {total - count} more maps are not drawn" if total > count else ""
    drawn.supxlabel("\n".join(textwrap.wrap(scale.note + rest, 42 * columns)), fontsize=7, color=QUIET)
    return drawn
