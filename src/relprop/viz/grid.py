"""Figures made of several pictures: original beside overlay, and images by methods."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from relprop.errors import InputError
from relprop.files import write_atomically
from relprop.viz.colour import PERCENTILE, Scale, as_map, scale_of, shared_scale
from relprop.viz.overlay import QUIET, as_picture, blend, draw_bar, encoded, outline, picture

_DPI = 160
_PANEL = 4.2  # inches: 672 pixels, three for each of the usual 224
_NARROW = 3.4  # where several maps stand beside one another
_INK = "#1f1f1f"


def side_by_side(
    image: Any,
    heatmap: Any,
    *,
    title: str = "",
    subtitle: str = "",
    score: float | None = None,
    scale: Scale | None = None,
    percentile: float | None = PERCENTILE,
    levels: bool = False,
    regions: Sequence[tuple[str, Any]] = (),
    name: str = "",
    others: Sequence[tuple[str, Any, float | None]] = (),
) -> Figure:
    """Put the picture, and its relevance over it, side by side, with a colour bar and one line on its range.

    Arguments as in `blend` and `scale_of`; `title` is set in large type, `subtitle` in small type below it. `regions`
    are outlined on both: (text, mask (H, W)) each. `name` stands above the map, which matters beside `others`: further
    maps (name, heatmap (H, W), score), each on a scale of its own, in shares of its score if there is one.
    """
    values = as_map(heatmap)
    scale = scale or scale_of(values, score=score, percentile=percentile, levels=levels)
    drawn = [(name, values, scale), *((text, as_map(one), scale_of(one, score=total)) for text, one, total in others)]
    wide = _PANEL if len(drawn) == 1 else _NARROW
    height = wide * values.shape[0] / values.shape[1]
    gap, edge, bar, foot = 0.12, 0.12, 0.95, 0.34 if len(drawn) == 1 else 0.46
    lines = subtitle.count("\n") + 1
    top = (0.46 + 0.16 * lines if title or subtitle else 0.12) + (0.24 if name else 0)
    size = (edge + wide + len(drawn) * (gap + wide + bar), top + height + foot)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")

    def panel(left: float, width: float) -> Axes:
        return figure.add_axes((left / size[0], foot / size[1], width / size[0], height / size[1]))

    first = panel(edge, wide)
    picture(first, as_picture(image), title="photograph" if name else None)
    for _, mask in regions:
        outline(first, mask)
    for at, (text, one, own) in enumerate(drawn):
        left = edge + wide + gap + at * (wide + bar + gap)
        ax = panel(left, wide)
        picture(ax, blend(image, one, own), title=text or None)
        for held, mask in regions:
            outline(ax, mask, "" if at else held)
        draw_bar(ax, own, panel(left + wide + 0.14, 0.16))
        note = own.note if len(drawn) == 1 else own.note.replace("; ", ";\n")
        figure.text(
            (left + wide) / size[0], (foot - 0.08) / size[1], note, size=7, color=QUIET, ha="right", va="top"
        )  # fmt: skip

    left = edge / size[0]
    if title:
        figure.text(left, 1 - 0.14 / size[1], title, size=13, color=_INK, va="top")
    if subtitle:
        figure.text(left, 1 - 0.40 / size[1], subtitle, size=8, color=QUIET, va="top")
    return figure


def grid(
    images: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    *,
    rows: Sequence[str] = (),
    percentile: float | None = PERCENTILE,
    levels: bool = False,
    original: str | None = "original",
    scale: Scale | Literal["each", "shared"] = "each",
) -> Figure:
    """Draw images (rows) by methods (columns), each map over its image.

    By default every map has its own display range, since methods differ in unit; the range is printed under it.

    Args:
        images: one a row, see `blend`.
        columns: title -> one heatmap (H, W) a row.
        rows: text at the left of each row.
        percentile: see `scale_of`.
        levels: see `scale_of`.
        original: title of a first column with the images alone; None leaves it out.
        scale: "each" map has its own; "shared", one for all, with a colour bar; or a fixed one.

    Raises:
        InputError: a column holds more or fewer maps than there are images.
    """
    for name, maps in columns.items():
        if len(maps) != len(images):
            raise InputError(f"column {name!r} has {len(maps)} maps for {len(images)} images")
    if not images or not (columns or original):
        raise InputError("a grid needs at least one image and one column")
    names = ([original] if original else []) + list(columns)
    common = _common(scale, columns, percentile=percentile, levels=levels)
    cell = 2.1
    size = (cell * len(names) + (0.4 if common is None else 1.2), (cell + 0.16) * len(images) + 0.3)
    figure = Figure(figsize=size, dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01))
    axes = figure.subplots(len(images), len(names), squeeze=False)
    for at, image in enumerate(images):
        cells = list(axes[at])
        if original:
            picture(cells.pop(0), as_picture(image))
        for ax, maps in zip(cells, columns.values(), strict=True):
            own = common or scale_of(maps[at], percentile=percentile, levels=levels)
            picture(ax, blend(image, maps[at], own))
            if common is None:
                ax.set_xlabel(_short_range(own), fontsize=6, color=QUIET, labelpad=2)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title("\n".join(textwrap.wrap(name, 22)), fontsize=9, color=_INK)
    for ax, name in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel("\n".join(textwrap.wrap(name, 24)), fontsize=8, color=_INK)
    if common is not None:
        draw_bar(axes, common)
        figure.supxlabel("\n".join(textwrap.wrap(common.note, 38 * len(names))), fontsize=7, color=QUIET)
    return figure


def _common(
    scale: Scale | Literal["each", "shared"], columns: Mapping[str, Sequence[Any]], **options: Any
) -> Scale | None:
    """The scale of all maps of a grid; None where each has its own."""
    if isinstance(scale, Scale):
        return scale
    if scale not in ("each", "shared"):
        raise InputError(f"scale must be 'each', 'shared' or a Scale, not {scale!r}")
    maps = [one for column in columns.values() for one in column]
    return shared_scale(maps, **options) if scale == "shared" and maps else None


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG (by its suffix), whole or not at all."""
    path = Path(path)
    write_atomically(path, lambda beside: figure.savefig(beside, format=path.suffix.lstrip(".") or "png"))
    return path


def save_pixels(rgb: Any, path: str | Path) -> Path:
    """Write a picture (H, W, 3) in [0, 1], such as `blend` makes, as PNG of H by W pixels."""
    path = Path(path)
    path.write_bytes(encoded(np.asarray(rgb)))
    return path


def save_overlay(path: str | Path, image: Any, heatmap: Any, **options: Any) -> tuple[Path, Path]:
    """Write `side_by_side(image, heatmap, **options)` to `path`, and the raw floats (.npy, float32) beside it.

    Returns the two paths. The floats are the heatmap as given: never quantized for display nor rescaled.
    """
    path = Path(path)
    drawn = save(side_by_side(image, heatmap, **options), path)
    raw = path.with_suffix(".npy")
    np.save(raw, as_map(heatmap).astype(np.float32))
    return drawn, raw


def _short_range(scale: Scale) -> str:
    if scale.smallest == scale.largest == 0:
        return scale.note
    if scale.levels is not None:
        return f"{len(scale.levels)} levels, {scale.levels[0]:.2g} to {scale.levels[-1]:.2g}"
    end = "" if scale.percentile is None or scale.beyond == 0 else f" (percentile {scale.percentile:g})"
    return f"{scale.low:.2g} to {scale.high:.2g}{end}"
