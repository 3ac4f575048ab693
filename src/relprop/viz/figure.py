"""Draw a result: one of its maps, or all in one figure with one scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from relprop.core.result.relevance import Relevance
from relprop.core.result.several import Relevances
from relprop.errors import InputError
from relprop.viz.colour import PERCENTILE, Floats, Scale, Unit, shared_scale
from relprop.viz.contours import contours as filled
from relprop.viz.overlay import INK, QUIET, blend, caption, draw_bar, names_of, overlay, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relprop.models.classes import Names

_CELL = 2.3  # inches


def figure(
    result: Relevance | Relevances,
    images: Any = None,
    *,
    limit: int = 12,
    columns: int = 4,
    unit: Unit | None = None,
    percentile: float | None = PERCENTILE,
    scale: Scale | None = None,
    dpi: float = 110,
    classes: Names | None = None,
) -> Figure:
    """Draw the maps of a result side by side, on one scale: a colour means the same relevance in all of them.

    Args:
        result: of N images, or of N images by K classes (one row an image); of several inputs, those that are images
            have a panel each (one row an image or class).
        images: the N pictures the network saw, see `blend`; None draws the maps alone. Of several inputs a tuple or
            dict of such lists, in which None leaves an input without pictures.
        limit: at most so many maps are drawn; the figure says how many are left out.
        columns: maps a row, where each image has one.
        unit: "raw" relevance, or each map as a "share" of its own score; None takes shares where relevance is of
            classes and nowhere negative.
        percentile: end of the display range over all maps drawn, see `scale_of`.
        scale: fixed colours instead, to compare with another figure.
        dpi: dots an inch.
        classes: names of the model's outputs, for the captions, see `show`.

    Raises:
        InputError: relevance of something other than images, or another number of pictures.
        UsageError: names that cannot be read, or another number of names than the model has outputs.
    """
    panels, columns = _panels(result, images, columns, classes)
    total = len(panels)
    panels = panels[:limit]
    parts = all(panel.is_part for panel in panels)  # signed relevance may cancel
    unit = unit or ("share" if parts and not result.what else "raw")
    if unit == "share":
        panels = [panel.as_share() for panel in panels]
    maps = [panel.heatmap for panel in panels]
    scale = scale or shared_scale(maps, percentile=percentile, score=1.0 if unit == "share" else None)
    rows = math.ceil(len(panels) / columns)
    height = _CELL * maps[0].shape[0] / maps[0].shape[1]
    drawn = Figure(figsize=(_CELL * columns + 0.9, (height + 0.3) * rows + 0.35), dpi=dpi, layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for panel, ax in zip(panels, axes.flat, strict=False):
        picture(ax, blend(panel.image, panel.heatmap, scale))
        ax.set_title("\n".join(textwrap.wrap(panel.title, 30)), fontsize=8, color=INK)
    draw_bar(axes, scale)
    rest = f"; {total - len(panels)} more maps are not drawn" if total > len(panels) else ""
    drawn.supxlabel("\n".join(textwrap.wrap(scale.note + rest, 42 * columns)), fontsize=7, color=QUIET)
    return drawn


def show(
    result: Relevance | Relevances,
    ax: Axes | None = None,
    *,
    image: Any = None,
    index: Any = 0,
    unit: Unit = "share",
    levels: int | None = None,
    contours: bool = False,
    smooth: float = 0.0,
    percentile: float | None = PERCENTILE,
    scale: Scale | None = None,
    title: str | None = None,
    classes: Names | None = None,
) -> Axes:
    """Draw one heatmap of a result, over `image` if given.

    Args:
        result: what `relprop.explain` returned; of several inputs, one of them: `result["depth"]`.
        ax: where to draw; None makes a figure (`ax.figure`).
        image: the picture the network saw, see `blend`.
        index: which sample of the batch; a pair (sample, class) where several classes were explained.
        unit: the numbers of the colour bar: shares of the score, or raw relevance.
        levels: draw `result.quantized(levels)`, one colour a level.
        contours: draw the levels (8 by default) as filled contours instead of pixels, see `relprop.viz.contours`.
        smooth: of the contours, in pixels.
        percentile: end of the display range, see `scale_of`.
        scale: fixed colours, for pictures that are to be compared: see `shared_scale`.
        title: text above; default is the class (or what else was explained) and its score.
        classes: names of the model's outputs, to call the class by: a list, `class_to_idx`, the path of a file or
            folder, as `relprop.models.load_model` takes them.

    Raises:
        InputError: there is no such sample; relevance of several inputs.
        UsageError: names that cannot be read, or another number of names than the model has outputs.
    """
    if isinstance(result, Relevances):
        names = ", ".join(map(repr, result.names))
        raise InputError(
            f"relevance of several inputs has a map each: show(result[NAME]) of {names}, or figure(result)"
        )
    maps = result.heatmap if levels is None or contours else result.quantized(levels=levels)
    heatmap, score, target = one_of(result, maps, index)
    share = float(score) if unit == "share" else None
    title = caption(result, target, score, names_of(classes, result)) if title is None else title
    if contours:
        return filled(image, heatmap, ax, levels=levels or 8, smooth=smooth, score=share, title=title)
    return overlay(
        image, heatmap, ax, score=share, scale=scale, percentile=percentile, levels=levels is not None, title=title
    )


def one_of(result: Relevance, maps: Tensor, index: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Choose one of the maps (N, H, W) or (N, K, H, W) of a result: the map (H, W), its score and its target.

    Raises:
        InputError: there is no such sample, or it has several classes.
    """
    try:
        heatmap, score, target = maps[index], result.score[index], result.target[index]
    except IndexError:
        raise InputError(f"no sample {index}: the result holds maps of shape {tuple(maps.shape)}") from None
    if heatmap.ndim == 3:
        raise InputError(f"sample {index} was explained for {len(heatmap)} classes; choose one: index=({index}, 0)")
    return heatmap, score, target


@dataclass(frozen=True)
class _Panel:
    """One map, what it lies over, and its words."""

    heatmap: Floats
    image: Any
    title: str
    score: float

    @property
    def is_part(self) -> bool:
        """Whether the map is a part of a positive score, nowhere below zero."""
        return bool(self.heatmap.min() >= -1e-5 * abs(self.heatmap).max()) and self.score > 0

    def as_share(self) -> _Panel:
        """The same with relevance as shares of the score."""
        return replace(self, heatmap=self.heatmap / (self.score or 1.0))


def _panels(
    result: Relevance | Relevances, images: Any, columns: int, classes: Names | None
) -> tuple[list[_Panel], int]:
    """The maps of a result, and how many stand in a row."""
    each = 1 if result.target.dim() == 1 else result.target.shape[1]
    if not isinstance(result, Relevances):
        return _of_input(result, images, "", classes), min(columns, len(result.target)) if each == 1 else each
    drawn = [name for name, part in zip(result.names, result, strict=True) if is_map(part)]
    if not drawn:
        raise InputError(f"none of the inputs {', '.join(result.names)} is an image, so there are no maps to draw")
    given = images if isinstance(images, Mapping) else dict(zip(result.names, images or (), strict=False))
    found = [_of_input(result[name], given.get(name), f"{name}: ", classes) for name in drawn]
    return [panel for row in zip(*found, strict=True) for panel in row], len(drawn)


def _of_input(result: Relevance, images: Sequence[Any] | None, prefix: str, classes: Names | None) -> list[_Panel]:
    if not is_map(result):
        raise InputError(f"only maps of images can be drawn, not relevance of shape {tuple(result.relevance.shape)}")
    if images is not None and len(images) != len(result.target):
        raise InputError(f"there are {len(images)} pictures for {len(result.target)} images")
    each, names = result.target.numel() // len(result.target), names_of(classes, result)
    maps = result.heatmap.flatten(0, result.target.dim() - 1).detach().cpu().double().numpy()
    pairs = zip(maps, result.target.flatten(), result.score.flatten(), strict=True)
    return [
        _Panel(
            heatmap,
            None if images is None else images[at // each],
            (f"{prefix}{heatmap.sum():.3g} of " if prefix else "") + caption(result, target, score, names),
            float(score),
        )
        for at, (heatmap, target, score) in enumerate(pairs)
    ]


def is_map(result: Relevance) -> bool:
    """Whether relevance is of an image, so that it can be drawn."""
    return result.relevance.dim() - result.target.dim() == 3
