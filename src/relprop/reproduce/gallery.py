"""Images by methods, as the paper shows them: one row an image, one column a map."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from relprop.viz import blend, scale_of
from relprop.viz.colour import GROUND
from relprop.viz.overlay import QUIET, as_picture, picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from relprop.reproduce.pictures import Shown

INK = "#1f1f1f"
_DPI = 150
_CELL = 224 / _DPI  # inches: one pixel of the usual 224 is one of the PNG, or four of it in figures of few columns
_GAP, _EDGE, _NAMES, _LINE, _LEGEND = 0.06, 0.14, 1.3, 0.155, 2.2
_FEW = 4


def gallery(
    shown: Sequence[Shown],
    columns: Mapping[str, Sequence[Any]],
    *,
    caption: str = "",
) -> Figure:
    """Draw pictures beside their maps, each map over its picture in colours of its own range.

    Args:
        shown: one a row.
        columns: title -> for each row a map (H, W), or the reason why there is none.
        caption: below, in small type.
    """
    size = _CELL * (2 if len(columns) < _FEW else 1)
    wide = _EDGE + _NAMES + (len(columns) + 1) * (size + _GAP) - _GAP + _EDGE
    absent = any(isinstance(one, str) for maps in columns.values() for one in maps)
    caption += " No map: the method cannot explain this network." * absent
    lines = textwrap.wrap(caption, int((wide - 2 * _EDGE - _LEGEND - 0.3) * 17))
    top = 0.58 if any("\n" in title for title in columns) else 0.4
    foot = 0.2 + max(2, len(lines)) * _LINE + 0.06
    tall = top + len(shown) * (size + _GAP) - _GAP + foot
    figure = Figure(figsize=(wide, tall), dpi=_DPI, facecolor="white")

    def cell(row: int, column: int) -> Axes:
        left = _EDGE + _NAMES + column * (size + _GAP)
        bottom = tall - top - row * (size + _GAP) - size
        return figure.add_axes((left / wide, bottom / tall, size / wide, size / tall))

    signed = False
    for row, one in enumerate(shown):
        _name(figure, one, (_EDGE / wide, (tall - top - row * (size + _GAP) - size / 2) / tall), tall)
        picture(cell(row, 0), as_picture(one.seen))
        for column, maps in enumerate(columns.values(), start=1):
            signed |= _draw(cell(row, column), one, maps[row])
    for column, title in enumerate(["image", *columns]):
        centre = _EDGE + _NAMES + column * (size + _GAP) + size / 2
        figure.text(centre / wide, 1 - (top / 2 + 0.02) / tall, title, size=10.5, color=INK, ha="center", va="center")
    for number, line in enumerate(lines):
        height = (foot - 0.18 - (number + 0.5) * _LINE) / tall
        figure.text(_EDGE / wide, height, line, size=7, color=QUIET, va="center")
    _legend(figure, wide, tall, foot, signed)
    return figure


def _name(figure: Figure, one: Shown, at: tuple[float, float], tall: float) -> None:
    name = "\n".join(textwrap.wrap(one.name, 14))
    figure.text(*at, name, size=10.5, color=INK, va="bottom")
    figure.text(at[0], at[1] - 0.06 / tall, f"p = {one.probability:.3f}", size=8, color=QUIET, va="top")


def _draw(ax: Axes, one: Shown, heatmap: Any) -> bool:
    """Draw a map over its picture, or say that there is none; returns whether the map has two signs."""
    if isinstance(heatmap, str):
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_facecolor("#f2f2f2")
        ax.text(0.5, 0.5, "no map", size=9, color=QUIET, ha="center", va="center", transform=ax.transAxes)
        return False
    scale = scale_of(heatmap)
    picture(ax, blend(one.seen, heatmap, scale))
    return scale.signed


def _legend(figure: Figure, wide: float, tall: float, foot: float, signed: bool) -> None:
    """Draw the colours from nothing to most; of two signs if any map has them."""
    long, high = _LEGEND, 0.09
    left, bottom = wide - _EDGE - long, foot - 0.28
    ax = figure.add_axes((left / wide, bottom / tall, long / wide, high / tall))
    values = np.linspace(-1.0 if signed else 0.0, 1.0, 256)
    colours = scale_of(np.array([[-1.0 if signed else 0.0, 1.0]]), percentile=None).over(values, GROUND)
    ax.imshow(colours[None], aspect="auto")
    ax.set_axis_off()
    names = [("against", left, "left"), ("0", left + long / 2, "center")] if signed else [("0", left, "left")]
    for name, x, side in [*names, ("most relevant", left + long, "right")]:
        figure.text(x / wide, (bottom - 0.05) / tall, name, size=7, color=QUIET, ha=side, va="top")
