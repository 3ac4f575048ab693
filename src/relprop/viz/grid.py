"""Figures made of several pictures: original beside overlay, and images by methods."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relprop.errors import InputError
from relprop.files import write_atomically
from relprop.viz.colour import GROUND, PERCENTILE, Scale, as_map, scale_of, shared_scale
from relprop.viz.overlay import INK, QUIET, as_picture, blend, draw_bar, encoded, outline, picture

_DPI = 160
_PANEL = 4.2  # inches: 672 pixels, three for each of the usual 224
_NARROW = 3.4  # where several maps stand beside one another
_CELL = 224 / _DPI  # inches
_FEW = 4  # cells of a row that are drawn twice as large
_EDGE, _LEGEND = 0.14, 2.2


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
        figure.text(left, 1 - 0.14 / size[1], title, size=13, color=INK, va="top")
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
    common = _common(scale, columns, percentile=percentile, levels=levels)
    ends = "" if percentile is None or levels else f"Colours of each map up to its {percentile:g}th percentile."
    return lay_out(images, columns, rows, original, common, ends, percentile=percentile, levels=levels)


def lay_out(
    images: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    rows: Sequence[str] = (),
    original: str | None = "original",
    common: Scale | None = None,
    caption: str = "",
    **options: Any,
) -> Figure:
    """Draw what `grid` has checked: a cell is 224 pixels wide, or twice as many, so that no pixel of a map is resized.

    Arguments as in `grid`. `common` is the scale of all maps; without one each has its own, of these `options`. A text
    in place of a map says why there is none.
    """
    names = ["\n".join(textwrap.wrap(name, 22)) for name in ([original] if original else []) + [*columns]]
    labels = ["\n".join(textwrap.fill(line, 18) for line in name.splitlines()) for name in rows]
    cell = _CELL * (2 if len(names) <= _FEW else 1)
    beside, below = 0.05, 0.05 if common else 0.3
    left = _EDGE + 0.075 * max((len(line) for label in labels for line in label.splitlines()), default=0)
    right, top = 1.1 if common else _EDGE, 0.15 + 0.15 * max(name.count("\n") + 1 for name in names)
    wide = left + len(names) * (cell + beside) - beside + right
    lines = textwrap.wrap(common.note if common else caption, int((wide - 2 * _EDGE - (0 if common else _LEGEND)) * 17))
    foot = below + 0.13 * max(len(lines), 2) + 0.1
    tall = top + len(images) * (cell + below) - below + foot
    figure = Figure(figsize=(wide, tall), dpi=_DPI, facecolor="white")
    edges = {"left": left / wide, "right": 1 - right / wide, "top": 1 - top / tall, "bottom": foot / tall}
    between = {"wspace": beside / cell, "hspace": below / cell}
    axes = figure.subplots(len(images), len(names), squeeze=False, gridspec_kw={**edges, **between})
    signed = False
    for at, image in enumerate(images):
        cells = list(axes[at])
        if original:
            picture(cells.pop(0), as_picture(image))
        for ax, maps in zip(cells, columns.values(), strict=True):
            if isinstance(maps[at], str):
                picture(ax, np.full((1, 1, 3), 0.95))
                ax.text(0.5, 0.5, "no map", size=9, color=QUIET, ha="center", va="center", transform=ax.transAxes)
            else:
                own = common or scale_of(maps[at], **options)
                signed |= own.signed
                picture(ax, blend(image, maps[at], own))
                ax.set_xlabel("" if common else textwrap.fill(_short_range(own), int(cell * 20)), size=6, color=QUIET)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize=9, color=INK)
    for ax, label in zip(axes[:, 0], labels, strict=False):
        ax.set_ylabel(label, fontsize=9, color=INK, rotation="horizontal", ha="right", va="center")
    figure.text(_EDGE / wide, (foot - below) / tall, "\n".join(lines), fontsize=7, color=QUIET, va="top")
    if common is None:
        _legend(figure, (wide - _EDGE - _LEGEND, foot - below - 0.1), signed)
    else:
        high = min(tall - foot - top, 4.0)
        place = (1 - (right - 0.14) / wide, 1 - (top + high) / tall, 0.16 / wide, high / tall)
        draw_bar(axes, common, figure.add_axes(place))
    return figure


def _legend(figure: Figure, at: tuple[float, float], signed: bool) -> None:
    """Draw the colours from nothing to most, `at` inches; of two signs if any map has them."""
    wide, tall = figure.get_size_inches()
    ax = figure.add_axes((at[0] / wide, at[1] / tall, _LEGEND / wide, 0.08 / tall))
    ends = scale_of(np.array([[-1.0 if signed else 0.0, 1.0]]), percentile=None)
    ax.imshow(ends.over(np.linspace(ends.low, 1, 256), GROUND)[None], aspect="auto", extent=(ends.low, 1, 0, 1))
    ax.set_axis_off()
    names = [(-1, "against", "left"), (0, "0", "center")] if signed else [(0, "0", "left")]
    for x, name, side in [*names, (1, "most relevant", "right")]:
        ax.text(x, -0.5, name, size=7, color=QUIET, ha=side, va="top")


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
    return f"{scale.low:.2g} to {scale.high:.2g}"
