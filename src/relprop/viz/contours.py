"""Heat Quantization drawn as a map with heights: one filled contour a level."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relprop.errors import InputError
from relprop.explainers.post import Smooth
from relprop.viz.colour import as_map, scale_of
from relprop.viz.overlay import QUIET, draw_bar, ground_of, picture

_LINE: dict[str, Any] = {"colors": "white", "linewidths": 0.5, "alpha": 0.35}


def contours(
    image: Any,
    heatmap: Any,
    ax: Axes | None = None,
    *,
    levels: int = 8,
    smooth: float = 0.0,
    score: float | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw a heatmap (H, W) in `levels` filled contours between its extremes, over its picture.

    The edges are those of Heat Quantization (Eq. 8) and each band has the colour of its level, the value of its lower
    edge, on a scale centred on 0 if the map is signed. Between pixels the map is taken to be linear. A map of single
    pixels has no bands to speak of: smooth it, which the line under the picture states, or read it as pixels
    (`overlay(levels=True)`).

    Args:
        image: the picture the network saw, see `blend`.
        heatmap: (H, W), as it is, not quantized.
        ax: where to draw; None makes a figure.
        levels: Q.
        smooth: width of the Gaussian, in pixels, that the map is drawn after; it keeps the total. Bands get outlines.
        score: what a printed share is a share of, see `scale_of`.
        colorbar: whether to add one.
        title: text above.

    Raises:
        InputError: fewer than two levels.
    """
    values = as_map(heatmap)
    if levels < 2:
        raise InputError(f"contours need at least 2 levels, not {levels}")
    ax = ax or Figure(figsize=(5.2, 5.0), layout="constrained").add_subplot()
    picture(ax, ground_of(image, values.shape), title=title)
    if smooth:
        values = as_map(Smooth(smooth)(torch.from_numpy(values)[None])[0])
    edges = np.linspace(values.min(), values.max(), levels + 1)
    scale = scale_of(np.unique(edges[:-1])[None], score=score, levels=True)
    if values.min() < values.max():
        ax.contourf(values, levels=edges, colors=[tuple(colour) for colour in scale.rgba(edges[:-1])], zorder=2)
        if smooth:  # around single pixels, outlines would hide the fill
            ax.contour(values, levels=edges[1:-1], zorder=3, **_LINE)
        ax.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    after = f", after a Gaussian of {smooth:g} px" if smooth else ""
    ax.set_xlabel(scale.note + after, fontsize=7, color=QUIET)
    if colorbar:
        draw_bar(ax, scale)
    return ax
