"""How long an explanation will still take, by how long its stages took the last time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relprop.sessions import DRAW, PREPARE


@dataclass
class Pace:
    """Seconds that each stage took when it was last done, by model and name of the stage."""

    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, model: str, stage: str, seconds: float) -> None:
        """Keep how long a stage took."""
        self.seconds[model, stage] = seconds

    def left(self, model: str, stages: Sequence[str], spent: float) -> float | None:
        """Seconds that are left of a stage that began `spent` ago, and those after it; None of a model not yet used.

        A method that this model has not been explained by is taken to last as long as the longest one that it has;
        preparing and drawing are short beside them, and say nothing of them.
        """
        short = {PREPARE: 0.0, DRAW: 0.0}
        known = [took for (name, stage), took in self.seconds.items() if name == model and stage not in short]
        if not known:
            return None
        first, *rest = (self.seconds.get((model, stage), short.get(stage, max(known))) for stage in stages)
        return max(0.0, first - spent) + sum(rest)
