"""What is tried: rules by rules, cut by cut, weight by weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relprop.core.cuts import format_reading
from relprop.core.cuts import parse_reading as parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relprop.core.cuts import Cuts

COMPOSITES = ("paper:classifier=centred", "paper:classifier=centred:split=symmetric", "paper")
SHARES = (0.0, 0.1, 0.2, 0.3)


@dataclass(frozen=True)
class Candidate:
    """One way to make a map.

    Attributes:
        composite: spec of the rules.
        reading: weights as text.
    """

    composite: str
    reading: str

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each cut."""
        return parse(self.reading)


def grid(cuts: Cuts, composites: Sequence[str] = COMPOSITES, shares: Sequence[float] = SHARES) -> tuple[Candidate, ...]:
    """Every composite with each late cut, of which the pixels get a share.

    Late cuts are the last map, the input of the last block and that of the block before it, as far as the network has
    them; two names of one tensor are tried once.
    """
    late = {cuts.place(part): name for name in _late(cuts) for part in cuts.expand(name)}
    readings = [
        format_reading({name: 1 - share, "input": share} if share else {name: 1.0})
        for place, name in late.items()
        for share in shares
        if place > 0
    ]
    return tuple(Candidate(composite, reading) for composite in composites for reading in [*readings, "1*input"])


def _late(cuts: Cuts) -> list[str]:
    """Names of late cuts; of two for one tensor the last is kept, so the most general comes last."""
    before = [f"{cuts.blocks[-2]}@input"] if len(cuts.blocks) > 1 else []
    return [*before, "last-map", "late"]
