"""What is tried: every composite with every separator layer and every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relprop.core.graph.separators import Separators
from relprop.core.result.combine import format_weights
from relprop.core.result.combine import parse_weights as parse

COMPOSITES = ("two-sided:late=gamma:classifier=contrast", "two-sided:classifier=contrast", "two-sided")
SHARES = (0.0, 0.1, 0.25)
WIDTHS = (0.0, 1.6)


@dataclass(frozen=True)
class Candidate:
    """One way to make a map."""

    composite: str  # spec of the rules
    weights: str  # of the layers, as text

    @property
    def by_layer(self) -> dict[str, float]:
        """Weight of each layer."""
        return parse(self.weights)


def grid(
    cuts: Separators,
    composites: Sequence[str] = COMPOSITES,
    shares: Sequence[float] = SHARES,
    widths: Sequence[float] = WIDTHS,
) -> tuple[Candidate, ...]:
    """Every composite with each late part of the network, smoothed or not, of which the pixels get a share.

    Late are the last map, the input of the last block, and the mean of the late blocks, as far as the network has
    them; two names of one tensor are tried once. The pixels' own map, which is grainy, is always smoothed: by the
    widest of `widths`.

    Args:
        cuts: of the network.
        composites: specs of the rules.
        shares: of the pixels.
        widths: of the Gaussian, in pixels (`parse_layer`); 0 is none.
    """
    late = {tuple(map(cuts.position, cuts.expand(name))): name for name in ("last-map", "late", "late-blocks")}
    pixels = _smoothed("input", max(widths, default=0.0))
    every = [
        format_weights({_smoothed(name, width): 1 - share, pixels: share} if share else {_smoothed(name, width): 1.0})
        for positions, name in late.items()
        for width in widths
        for share in shares
        if positions != (0,)
    ]
    return tuple(Candidate(composite, weights) for composite in composites for weights in [*every, f"1*{pixels}"])


def _smoothed(name: str, width: float) -> str:
    return f"{name}~{width:g}" if width else name
