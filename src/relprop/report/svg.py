"""Small drawings as inline SVG. Colours are the page's own variables, so that light and dark both fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 40
COLOURS = 8
"""Line colours of the page's style sheet; then they come again, dashed."""
_DASHES = ("", "6 3", "2 3")


@dataclass(frozen=True)
class Line:
    """One line of a chart; a quiet one is a control, drawn grey."""

    label: str
    ys: tuple[float, ...]
    quiet: bool = False


def look(line: Line, at: int, quiets: int = 0) -> Markup:
    """SVG attributes of the line that is number `at` among the loud ones (or `quiets` among the controls)."""
    css = "quiet" if line.quiet else f"c{at % COLOURS}"
    dash = _DASHES[1 + quiets % 2] if line.quiet else _DASHES[at // COLOURS % len(_DASHES)]
    return Markup('class="line {}"').format(css) + (Markup(' stroke-dasharray="{}"').format(dash) if dash else "")


def looks(lines: Sequence[Line]) -> list[Markup]:
    """Return the look of each line."""
    made, loud, quiet = [], 0, 0
    for line in lines:
        made.append(look(line, loud, quiet))
        loud, quiet = loud + (not line.quiet), quiet + line.quiet
    return made


def line_chart(lines: Sequence[Line], title: str, across: str, up: str) -> Markup:
    """Draw curves over their steps: 0 at the left, the last step at the right; heights from 0 to 1 or beyond."""
    values = [y for line in lines for y in line.ys]
    low, high, ticks = nice_range(min([0.0, *values]), max([0.0, *values]))
    steps = max(len(line.ys) for line in lines) - 1

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(steps, 1)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [_grid(y(tick), f"{tick:g}") for tick in ticks]
    tick_text = Markup('<text x="{:.1f}" y="{}" class="tick mid">{}</text>')
    quarters = dict.fromkeys(round(steps * quarter / 4) for quarter in range(5))
    parts += [tick_text.format(x(step), _HEIGHT - 22, step) for step in quarters]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(Markup('<text x="{}" y="{}" class="axis mid">{}</text>').format(middle, _HEIGHT - 4, across))
    parts.append(
        Markup('<text transform="translate(11 {}) rotate(-90)" class="axis mid">{}</text>').format(_HEIGHT / 2 - 15, up)
    )
    # controls first, so that they lie below
    drawn = sorted(zip(lines, looks(lines), strict=True), key=lambda pair: not pair[0].quiet)
    for line, style in drawn:
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in enumerate(line.ys))
        parts.append(Markup('<polyline {} points="{}"><title>{}</title></polyline>').format(style, points, line.label))
    return _chart(_WIDTH, title, parts)


def scatter(points: Sequence[tuple[float, float]], groups: Sequence[int], names: Sequence[str], title: str) -> Markup:
    """Draw points in the colours of their groups, each group's number at its middle; axes have no unit, so no ticks."""
    xs, ys = zip(*points, strict=True)
    size, pad = _HEIGHT, 18

    def position(value: float, values: Sequence[float]) -> float:
        low, high = min(values), max(values)
        return pad + (size - 2 * pad) * ((value - low) / (high - low) if high > low else 0.5)

    spots = [(position(x, xs), position(y, ys)) for x, y in points]
    dots = [
        Markup('<circle class="point c{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
            group % COLOURS, x, y, name
        )
        for (x, y), group, name in zip(spots, groups, names, strict=True)
    ]
    words = []
    for group in sorted(set(groups)):
        own = [spot for spot, of in zip(spots, groups, strict=True) if of == group]
        middle = [sum(axis) / len(own) for axis in zip(*own, strict=True)]
        words.append(
            Markup('<text x="{:.1f}" y="{:.1f}" class="group mid">{}</text>').format(
                middle[0], middle[1] + 5, group + 1
            )
        )
    return _chart(size, title, [*dots, *words])


def _chart(width: int, title: str, parts: Sequence[Markup]) -> Markup:
    frame = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart">{}</svg>')
    return frame.format(width, _HEIGHT, title, Markup().join(parts))


def legend_point(group: int) -> Markup:
    """Draw a point in the colour of a group, for a legend."""
    frame = Markup('<svg viewBox="0 0 10 10" width="10" height="10" aria-hidden="true">{}</svg>')
    return frame.format(Markup('<circle class="point c{}" cx="5" cy="5" r="3.6"/>').format(group % COLOURS))


def legend_line(style: Markup) -> Markup:
    """Draw a short piece of a line, for a legend."""
    frame = Markup('<svg viewBox="0 0 28 10" width="28" height="10" aria-hidden="true">{}</svg>')
    return frame.format(Markup('<line {} x1="1" y1="5" x2="27" y2="5"/>').format(style))


def bar(value: float, low: float, high: float, *, quiet: bool = False) -> Markup:
    """Draw a bar from zero to `value` on an axis from `low` to `high`; one below zero has a colour of its own."""
    start, end = sorted((_place(0.0, low, high), _place(value, low, high)))
    css = "bar quiet" if quiet else "bar against" if value < 0 else "bar"
    inner = Markup('<rect class="{}" x="{:.2f}" y="2" width="{:.2f}" height="10"/>').format(
        css, start, max(end - start, 0.3)
    )
    return _row(inner + _zero(low, high))


def dot(value: float, error: float | None, low: float, high: float, *, quiet: bool = False) -> Markup:
    """Draw a value with its standard error on an axis from `low` to `high`."""
    at, css = _place(value, low, high), "quiet" if quiet else "loud"
    parts = _zero(low, high)
    if error:
        left, right = _place(value - error, low, high), _place(value + error, low, high)
        parts += Markup('<rect class="whisker {}" x="{:.2f}" y="6" width="{:.2f}" height="2"/>').format(
            css, left, max(right - left, 0.2)
        )
    return _row(parts + Markup('<rect class="dot {}" x="{:.2f}" y="2" width="1.4" height="10"/>').format(css, at - 0.7))


def axis(low: float, high: float) -> Markup:
    """Draw an axis without a value."""
    return _row(_zero(low, high))


def colour_bar(colours: Sequence[tuple[float, float, float]]) -> Markup:
    """Draw colours from left to right, each (r, g, b) in [0, 1]."""
    width = 100 / len(colours)
    parts = [
        Markup('<rect x="{:.3f}" y="0" width="{:.3f}" height="8" fill="{}"/>').format(
            at * width, width + 0.2, "#" + "".join(f"{round(255 * part):02x}" for part in colour)
        )
        for at, colour in enumerate(colours)
    ]
    frame = Markup(
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" class="scale" aria-hidden="true" '
        'shape-rendering="crispEdges">{}</svg>'
    )
    return frame.format(Markup().join(parts))


def nice_range(low: float, high: float) -> tuple[float, float, list[float]]:
    """Widen a range to round ends: low, high and the ticks from one to the other."""
    if not high > low:
        high = low + 1.0
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(step * k, 12) for k in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _grid(y: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" y1="{1:.1f}" x2="{2}" y2="{1:.1f}"/>'
        '<text x="{3}" y="{4:.1f}" class="tick end">{5}</text>'
    ).format(_LEFT, y, _WIDTH - _RIGHT, _LEFT - 6, y + 4, escape(text))


def _place(value: float, low: float, high: float) -> float:
    """Position on an axis of 100 units; what lies beyond is put at the end."""
    return 100 * min(max((value - low) / (high - low), 0.0), 1.0)


def _zero(low: float, high: float) -> Markup:
    return Markup('<rect class="zero" x="{:.2f}" y="0" width="0.3" height="14"/>').format(_place(0.0, low, high))


def _row(inner: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 100 14" preserveAspectRatio="none" class="strip" aria-hidden="true">{}</svg>'
    ).format(inner)
