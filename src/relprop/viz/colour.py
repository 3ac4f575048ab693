"""Which colour a relevance gets, and what the colour bar says about it.

A map without negative values is drawn on one sequential arm (purple, orange, pale yellow), a signed map on two
arms that meet at zero: blue for relevance against the class, orange for relevance in favour. Blue against orange
stays apart under the common kinds of colour blindness, and both arms grow lighter away from zero, so that they
read in greyscale too. Zero is transparent: there the picture below shows as it is.

The display range ends at a percentile of the absolute values, since a few pixels of a relevance map are many times
larger than the rest. Nothing is hidden by that: `Scale.note` states the range, its origin, how many pixels lie
beyond it and how far, and the colour bar is drawn with an arrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import ListedColormap

from relprop.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]
Unit = Literal["share", "raw"]

GROUND = 0.16
"""Grey level on which a map without a photograph, and every colour bar, is drawn."""

PERCENTILE = 99.5
"""Default end of the display range, as a percentile of the absolute relevance."""

# Below this fraction of the largest value a negative entry is rounding noise, not relevance against the class.
_ROUNDING = 1e-5
_OPACITY = 0.96  # at the end of the range; it grows linearly from none at zero
_STEPS = 512


@dataclass(frozen=True)
class Scale:
    """How relevance becomes colour: linear from `low` to `high`, in the unit of the heatmap.

    Attributes:
        low, high: relevance at the two ends of the colour bar; values beyond take the colour of the end.
        signed: two arms about zero (then `low == -high`), or one arm from zero.
        score: what a printed share is a share of; None prints raw relevance.
        percentile: where `high` comes from; None when it is the largest value.
        smallest, largest: the data's own range.
        beyond: fraction of pixels outside [low, high].
        levels: the distinct values of a quantized map, ascending; None for a continuous one.
    """

    low: float
    high: float
    signed: bool
    score: float | None
    percentile: float | None
    smallest: float
    largest: float
    beyond: float
    levels: tuple[float, ...] | None = None

    def rgba(self, values: Floats) -> Floats:
        """Map relevance (...,) to colour and opacity (..., 4) in [0, 1]; zero is fully transparent."""
        span = self.high or 1.0  # a map of zeros: every position below is 0
        position = np.clip(np.asarray(values, dtype=np.float64) / span, -1.0 if self.signed else 0.0, 1.0)
        index = np.round((position + 1.0) / 2.0 * (2 * _STEPS)).astype(np.intp)
        return _table(self.signed)[index]

    def over(self, values: Floats, ground: Floats | float) -> Floats:
        """Colour `values` (...,) over an opaque `ground` (..., 3), giving (..., 3)."""
        rgba = self.rgba(values)
        opacity = rgba[..., 3:]
        return rgba[..., :3] * opacity + np.asarray(ground) * (1.0 - opacity)

    @property
    def unit(self) -> str:
        """What the numbers beside the colour bar are."""
        return "relevance per pixel" if self.score is None else "share of the score per pixel, %"

    def printed(self, value: float) -> float:
        """Return a relevance in the unit of the colour bar: percent of the score, or itself."""
        return value if self.score is None else 100.0 * value / self.score

    @property
    def note(self) -> str:
        """One line that says what the colours span, and what they leave out."""
        sign = "" if self.score is None else " %"

        def number(value: float) -> str:
            return f"{self.printed(value):.3g}"

        if self.smallest == self.largest == 0:
            return "zero at every pixel"
        if self.levels is not None:
            ends = f"{number(self.levels[0])} to {number(self.levels[-1])}{sign}"
            return f"{len(self.levels)} level{'s' * (len(self.levels) != 1)}, {ends}"
        span = f"colours span {number(self.low)} to {number(self.high)}{sign}"
        if self.percentile is None or self.beyond == 0:
            return f"{span}; data from {number(self.smallest)} to {number(self.largest)}{sign}"
        return (
            f"{span} (percentile {self.percentile:g}); {100 * self.beyond:.2g} % of pixels lie beyond, "
            f"data from {number(self.smallest)} to {number(self.largest)}{sign}"
        )

    def bar_colours(self) -> ListedColormap:
        """Return the colours of the bar from `low` to `high`, drawn over the neutral ground."""
        from matplotlib.colors import ListedColormap

        values = np.linspace(self.low, self.high, 257) if self.levels is None else np.array(self.levels)
        return ListedColormap(list(self.over(values, GROUND)))


def scale_of(
    heatmap: Any,
    *,
    score: float | None = None,
    percentile: float | None = PERCENTILE,
    signed: bool | None = None,
    levels: bool = False,
) -> Scale:
    """Choose the colours for one heatmap (H, W).

    Args:
        heatmap: relevance per pixel; tensor or array, finite.
        score: what the relevance sums to; given and positive, the bar prints shares of it, else raw relevance.
        percentile: the display range ends here, in percentiles of the absolute relevance; None for its maximum.
        signed: force two arms (True) or one (False); None looks for negative values.
        levels: the map is quantized: one colour a level, over the full range.

    Raises:
        InputError: the map is not (H, W), empty, not finite, or one arm is forced on a map with negative values.
    """
    values = as_map(heatmap)
    smallest, largest = float(values.min()), float(values.max())
    size = np.abs(values)
    negative = smallest < -_ROUNDING * float(size.max())
    if signed is False and negative:
        raise InputError(f"the heatmap goes down to {smallest:.3g}; colours for positive maps would hide that")
    two_arms = negative if signed is None else signed
    high = float(size.max()) if levels or percentile is None else float(np.percentile(size, percentile))
    clipped = high > 0
    high = high or float(size.max())  # a map with few non-zero pixels: its percentile is 0
    low = -high if two_arms else 0.0
    return Scale(
        low=low,
        high=high,
        signed=two_arms,
        score=score if score is not None and score > 0 else None,
        percentile=None if levels or not clipped else percentile,
        smallest=smallest,
        largest=largest,
        beyond=float((size > high).mean()),
        levels=tuple(float(v) for v in np.unique(values)) if levels else None,
    )


def shared_scale(heatmaps: Sequence[Any], **options: Any) -> Scale:
    """One scale for several heatmaps, of any sizes, so that a colour means the same in all of them.

    Arguments as in `scale_of`; the percentile is taken over the pixels of all maps.
    """
    maps = [as_map(heatmap).reshape(1, -1) for heatmap in heatmaps]
    if not maps:
        raise InputError("a shared scale needs at least one heatmap")
    return scale_of(np.concatenate(maps, axis=1), **options)


def as_map(heatmap: Any) -> Floats:
    """Return a heatmap (H, W) as float64, from a tensor on any device or an array.

    Raises:
        InputError: another shape, no pixels, or values that are not finite.
    """
    if hasattr(heatmap, "detach"):
        heatmap = heatmap.detach().cpu().double().numpy()
    values = np.asarray(heatmap, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"a heatmap to draw has shape (H, W), not {tuple(values.shape)}; pick one of a batch by index")
    if not np.isfinite(values).all():
        raise InputError(f"the heatmap has {int((~np.isfinite(values)).sum())} pixels that are not finite")
    return values


@cache
def _table(signed: bool) -> Floats:
    """Colours and opacities (2 * _STEPS + 1, 4) from -1 to 1; the middle row is zero."""
    position = np.linspace(-1.0, 1.0, 2 * _STEPS + 1)
    size = np.abs(position)
    # The lowest, nearly black third of inferno would darken the photograph instead of colouring it. A signed map
    # starts at red and ends before pale yellow, where the two arms would meet again.
    start, end = (0.55, 0.92) if signed else (0.35, 1.0)
    table = colormaps["inferno"](start + (end - start) * size)
    table[:, 3] = _OPACITY * size
    negative = position < 0
    table[negative, :3] = table[negative, 2::-1]  # red and blue change places: orange becomes sky blue
    return np.asarray(table, dtype=np.float64)
