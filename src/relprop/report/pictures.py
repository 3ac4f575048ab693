"""Panels: the picture, and maps over it that share one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from markupsafe import Markup

from relprop.report.document import Panel, PanelRow
from relprop.report.svg import colour_bar
from relprop.sessions import Comparison, Map
from relprop.viz.colour import Floats, Scale, as_map, scale_of, shared_scale
from relprop.viz.overlay import as_picture, blend, encoded, uri_of

_SMALL = 128
"""Below this side pictures are stored without loss, and shown with square pixels."""


def shares(heatmap: Any) -> Floats:
    """(H, W) -> (H, W): each pixel's share of the map's total magnitude, signed; a map of zeros stays as it is.

        s_i = h_i / sum_j |h_j|

    Of relevance that is nowhere negative this is the share of the score. Methods differ in unit; in this one they
    can be laid side by side.
    """
    values = as_map(heatmap)
    total = float(np.abs(values).sum())
    return values / total if total > 0 else values


def common_scale(maps: Sequence[Floats]) -> Scale:
    """Choose one scale for maps of shares: it ends where the first map's own would; two arms if any map is signed.

    A map's own scale ends at the 99.5th percentile of its magnitude, as elsewhere. With the largest end of all, one
    map of few strong pixels would leave the others dark.
    """
    own = [scale_of(values) for values in maps]
    whole = shared_scale(maps, score=1.0, percentile=None)
    high = own[0].high or whole.high
    beyond = float(np.concatenate([(np.abs(values) > high).ravel() for values in maps]).mean())
    signed = any(scale.signed for scale in own)
    return replace(whole, low=-high if signed else 0.0, high=high, signed=signed, beyond=beyond)


def row_of(comparison: Comparison) -> PanelRow:
    """Lay a comparison's picture and maps side by side."""
    drawn = [(found, shares(found.heatmap)) for found in comparison.maps if found.heatmap is not None]
    probability = "" if comparison.probability is None else f", {100 * comparison.probability:.1f} %"
    heading = f"{comparison.name}: {comparison.class_name}{probability}"
    panels = [
        panel(as_picture(comparison.picture), "original", f"The picture {comparison.name}, as the network sees it.")
    ]
    if not drawn:
        return PanelRow(heading, _said(comparison), (*panels, *map(_failed, comparison.maps)))
    scale = common_scale([values for _, values in drawn])
    by_name = {found.name: values for found, values in drawn}
    for found in comparison.maps:
        if found.name not in by_name:
            panels.append(_failed(found))
            continue
        values = by_name[found.name]
        panels.append(
            panel(
                blend(comparison.picture, values, scale),
                found.name,
                _alt(comparison, found, values),
                _beyond(values, scale),
            )
        )
    return PanelRow(heading, _said(comparison), tuple(panels), *legend(scale))


def legend(scale: Scale) -> tuple[Markup, str, str, str]:
    """The colour bar of a scale of shares, what its ends stand for, and its unit."""
    colours = [tuple(row[:3]) for row in np.asarray(scale.bar_colours()(np.linspace(0, 1, 48)))]
    unit = "share of the map per pixel" + (" (blue: against the class)" if scale.signed else "")
    return colour_bar(colours), f"{100 * scale.low:.2g} %", f"{100 * scale.high:.2g} %", unit


def panel(rgb: Floats, caption: str, alt: str, note: str = "") -> Panel:
    """Make a panel of an RGB picture (H, W, 3) in [0, 1]."""
    return Panel(data_uri(rgb), alt, caption, note, pixelated=min(rgb.shape[:2]) < _SMALL)


def data_uri(rgb: Floats) -> str:
    """Write an RGB picture (H, W, 3) into a URI: PNG if it is small, else JPEG."""
    lossless = min(rgb.shape[:2]) < _SMALL
    kind, options = ("png", {"optimize": True}) if lossless else ("jpeg", {"quality": 88, "subsampling": 0})
    return uri_of(encoded(rgb, kind, **options), kind)


def where(values: Floats) -> str:
    """Say in words where a map has its weight: "upper left", "centre", ..."""
    size = np.abs(values)
    if not size.sum() > 0:
        return "nowhere"
    rows, columns = (np.arange(side) / max(side - 1, 1) for side in values.shape)
    down, right = float((size.sum(1) * rows).sum() / size.sum()), float((size.sum(0) * columns).sum() / size.sum())
    vertical = "upper" if down < 0.42 else "lower" if down > 0.58 else ""
    horizontal = "left" if right < 0.42 else "right" if right > 0.58 else ""
    return " ".join(part for part in (vertical, horizontal) if part) or "centre"


def half_on(values: Floats) -> float:
    """Fraction of pixels that together hold half of the map's magnitude; an even map gives one half."""
    size = np.sort(np.abs(values).ravel())[::-1]
    if not size.sum() > 0:
        return 1.0
    return (int((np.cumsum(size) / size.sum() < 0.5 - 1e-12).sum()) + 1) / size.size


def _alt(comparison: Comparison, found: Map, values: Floats) -> str:
    part = where(values)
    part = "centre" if part == "centre" else f"{part} part"
    weight = "the map is zero everywhere" if part == "nowhere" else f"its weight lies in the {part} of the picture"
    return f"Map of {found.name} for {comparison.class_name} over the picture: {weight}."


def _beyond(values: Floats, scale: Scale) -> str:
    text = f"half of it on {100 * half_on(values):.2g} % of pixels"
    beyond = float((np.abs(values) > scale.high).mean())
    return text + (f"; {100 * beyond:.2g} % beyond the scale" if beyond > 0 else "")


def _failed(found: Map) -> Panel:
    return Panel("", "", found.name, found.error)


def _said(comparison: Comparison) -> str:
    """What the model predicts, if something else was explained, and what regions hold."""
    said = []
    if comparison.top and comparison.top[0][0] != comparison.target:
        said.append(f"The model predicts {comparison.top[0][1]} ({100 * comparison.top[0][2]:.1f} %).")
    said += [f"{text[0].upper()}{text[1:]}." for text in comparison.regions]
    return " ".join(said)
