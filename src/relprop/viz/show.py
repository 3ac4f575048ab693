"""Draw one heatmap of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relprop.errors import InputError
from relprop.viz.colour import PERCENTILE, Scale, Unit
from relprop.viz.contours import contours as filled
from relprop.viz.overlay import caption, names_of, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from relprop.core.result.relevance import Relevance
    from relprop.core.result.several import Relevances
    from relprop.models.classes import Names


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
    from relprop.core.result.several import Relevances

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
