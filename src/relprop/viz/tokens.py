"""Tokens on the colours of their relevance: in a terminal, and as HTML.

Colours are those of maps without a photograph: blue against, orange in favour, growing lighter from a dark ground at
zero. One scale holds for all texts of a result; it ends at the largest value, so that nothing is cut off, and is
always printed.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from relprop.viz.colour import GROUND, Scale, scale_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from relprop.text.relevance import TokenRelevance

Colour = tuple[int, int, int]

# of any colour at least one of these two has a contrast of 4.58, as readable text wants it (WCAG AA: 4.5)
_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)
_STEPS = 13  # of the drawn scale


def scale_for(result: TokenRelevance) -> Scale:
    """One scale for all texts: from minus to plus the largest value, or from zero where nothing is negative."""
    values = [value for n in range(len(result)) for value in result.values(n)]
    return scale_of(np.asarray([values]), percentile=None)


def swatch(scale: Scale, value: float) -> tuple[Colour, Colour]:
    """Colour of a value, and of the letters on it: whichever of dark and light has more contrast."""
    ground = tuple(round(255 * float(part)) for part in scale.over(np.asarray(value), GROUND))
    red, green, blue = ground
    colour = (red, green, blue)
    return colour, max((_DARK, _LIGHT), key=lambda ink: contrast(colour, ink))


def contrast(one: Colour, other: Colour) -> float:
    """Ratio of the luminances of two colours, from 1 to 21, as WCAG defines it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def summary(result: TokenRelevance, index: int) -> str:
    """What was explained of a text, and what its relevance sums to."""
    total = sum(result.values(index))
    return f"{result.explained(index)}: {float(result.score[index]):.6f}; relevance sums to {total:.6f}"


def note(scale: Scale) -> str:
    """What the colours span."""
    if scale.smallest == scale.largest == 0:
        return "relevance is zero at every token"
    return (
        f"one scale for all: {scale.low:.3g} to {scale.high:.3g} relevance per token; "
        f"data from {scale.smallest:.3g} to {scale.largest:.3g}"
    )


def terminal(result: TokenRelevance) -> Iterator[RenderableType]:
    """What a terminal shows: for each text its tokens on their colours, and a line of numbers; then the scale."""
    from rich.style import Style
    from rich.text import Text

    def styled(scale: Scale, value: float) -> Style:
        colour, ink = swatch(scale, value)
        return Style(color=_hex(ink), bgcolor=_hex(colour))

    scale = scale_for(result)
    for index in range(len(result)):
        line = Text()
        for shown, value, space in _shown(result, index):
            line.append(" " if space and line else "")
            line.append(_printable(shown), styled(scale, value))
        yield line
        yield Text(summary(result, index), style="bright_black")
        yield Text()
    ramp = Text()
    for value in np.linspace(scale.low, scale.high, _STEPS):
        ramp.append("  ", styled(scale, float(value)))
    yield Text(f"{scale.low:.3g} ") + ramp + Text(f" {scale.high:.3g}")
    yield Text(note(scale), style="bright_black")


def fragment(result: TokenRelevance) -> str:
    """The same as HTML that needs no style sheet and no script: what a notebook shows."""
    scale = scale_for(result)
    texts = [
        f'<p style="line-height: 2.1; margin: .6em 0 .1em">{chips(result, index, scale)}</p>'
        f'<p style="font-size: .85em; opacity: .75; margin: 0 0 .9em">{html.escape(summary(result, index))}</p>'
        for index in range(len(result))
    ]
    return f"<div>{''.join(texts)}{legend(scale)}</div>"


def chips(result: TokenRelevance, index: int, scale: Scale) -> str:
    """The tokens of one text, each on its colour, with its number for those who point at it."""
    parts = []
    for shown, value, space in _shown(result, index):
        colour, ink = swatch(scale, value)
        style = f"background: {_hex(colour)}; color: {_hex(ink)}; padding: .15em .3em; border-radius: 3px"
        title = html.escape(f"{shown}: {value:+.4g}", quote=True)
        parts.append(f'{" " if space else "<wbr>"}<span title="{title}" style="{style}">{html.escape(shown)}</span>')
    return "".join(parts).strip()


def legend(scale: Scale) -> str:
    """The scale, with its ends and what it spans in words."""
    ramp = "".join(
        f'<span style="background: {_hex(swatch(scale, float(value))[0])}; display: inline-block; width: 1em; '
        f'height: .8em"></span>'
        for value in np.linspace(scale.low, scale.high, _STEPS)
    )
    ends = f"{scale.low:.3g} {ramp} {scale.high:.3g}"
    return f'<p style="font-size: .85em">{ends}<br>{html.escape(note(scale))}</p>'


def _shown(result: TokenRelevance, index: int) -> Sequence[tuple[str, float, bool]]:
    """(characters, relevance, whether there is space before) of each token of a text."""
    pairs = zip(result.pieces[index], result.values(index), strict=True)
    return [(piece.text, value, piece.space) for piece, value in pairs]


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _luminance(colour: Colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
