"""Masking protocols: every choice that moves an insertion or deletion score, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relprop.errors import UsageError
from relprop.metrics.masking import Fill
from relprop.registry import Registry

Ties = Literal["together", "shuffled", "row-major", "expected"]
Score = Literal["label", "target", "logit"]


PROTOCOLS: Registry[Protocol] = Registry("protocol")


@PROTOCOLS.register("fair")
@dataclass(frozen=True)
class Protocol:
    """Exact counts, ties in random order, both end points, and the explained class is the scored one.

    Attributes:
        step: pixels a step; below 1 a fraction; None for 500 at 224 x 224 and in proportion elsewhere.
        ties: "together" (each step is a threshold, as released), "shuffled" (exact counts, random order),
            "row-major", or "expected" (mean over `shuffles` random orders; exact where no step parts a tie).
        fill: what stands for a removed pixel: see `masking.fill_picture`.
        score: probability of the true "label", of the explained "target", or the explained class's "logit".
        ends: whether the blank and the whole picture are points of the curve.
        seed: of ties and noise.
        shuffles: random orders behind "expected".
    """

    step: float | None = None
    ties: Ties = "shuffled"
    fill: Fill = "black"
    score: Score = "target"
    ends: bool = True
    seed: int = 0
    shuffles: int = 16

    def __post_init__(self) -> None:
        choices = {"ties": Ties, "fill": Fill, "score": Score}
        for name, kind in choices.items():
            known = kind.__args__  # type: ignore[attr-defined]
            if getattr(self, name) not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.shuffles < 1:
            raise UsageError(f"shuffles must be at least 1, not {self.shuffles}")

    def pixels_a_step(self, height: int, width: int) -> float:
        """Pixels a step for pictures of this size."""
        return max(1, round(500 * height * width / 224**2)) if self.step is None else self.step


@PROTOCOLS.register("paper-protocol")
@dataclass(frozen=True)
class PaperProtocol(Protocol):
    """As released: thresholds, so that ties change together; black; the label's probability; no end points.

    A constant map wins under it: read its scores beside controls, and beside "fair".
    """

    ties: Ties = "together"
    score: Score = "label"
    ends: bool = False
