"""The conservation table: the ledger by block, what each part of the network received and passed on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from relprop.core.backward.ledger import Conservation, Ledger
from relprop.sessions import block_of
from relprop.tables import number


@dataclass
class Row:
    """One block's row.

    `received` is the relevance at the block's output, summed over images; `took` and `leaked` are what its steps
    absorbed and lost of it; `leak` and `absorbed` are the largest relative ones of a step and an image.
    """

    received: float = 0.0
    took: float = 0.0
    leaked: float = 0.0
    leak: float = 0.0
    absorbed: float = 0.0

    @property
    def sent(self) -> float:
        """What leaves the block towards the image."""
        return self.received - self.took - self.leaked


@dataclass
class ConservationTable:
    """The ledgers of all images, added up by block: the first `depth` parts of a step's name.

    `of_score` is the share of the score that was absorbed or created, of the image where that is largest in size.
    """

    depth: int
    rows: dict[str, Row] = field(default_factory=dict)
    start: float = 0.0
    end: float = 0.0
    gap: float = 0.0
    absorbed: float = 0.0
    of_score: float = 0.0
    images: int = 0

    def add(self, ledger: Ledger) -> None:
        """Add one result's ledger, from the output to the input."""
        seen: set[str] = set()
        shares = ledger.absorptions.abs() / ledger.scale
        for at, entry in enumerate(ledger.entries):
            block = block_of(entry.name, self.depth)
            row = self.rows.setdefault(block, Row())
            if block not in seen:  # the step of the block that is nearest to the output
                row.received += float(entry.received.sum())
            seen.add(block)
            row.took += float(ledger.absorptions[at].sum())
            row.leaked += float(ledger.leaks[at].sum())
            row.leak = _worse(row.leak, float(ledger.gaps[at].max()))
            row.absorbed = _worse(row.absorbed, float(shares[at].max()))
        self.start += float(ledger.start.sum())
        self.end += float(ledger.end.sum())
        self.gap = _worse(self.gap, ledger.gap)
        self.absorbed = _worse(self.absorbed, ledger.absorbed)
        share = ledger.conservation().absorbed
        if math.isnan(share) or abs(share) > abs(self.of_score):
            self.of_score = share
        self.images += len(ledger.start)

    def heads(self) -> tuple[str, ...]:
        """The columns that users see; the last only where something was absorbed, or cannot be computed."""
        return ("block", "received", "passed on", "leak", *(["absorbed"] if self.absorbed != 0 else []))

    def cells(self, row: Row) -> tuple[str, ...]:
        """A row's numbers under `heads`, as text."""
        numbers = (number(row.received), number(row.sent), f"{row.leak:.1e}", f"{row.absorbed:.1e}")
        return numbers[: len(self.heads()) - 1]

    @property
    def conservation(self) -> Conservation:
        """The two statements about all images, each for the worst of them."""
        return Conservation(self.gap, self.of_score)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        blocks = [
            {"block": name, "received": row.received, "sent": row.sent, "leak": row.leak, "absorbed": row.absorbed}
            for name, row in self.rows.items()
        ]
        sums = {"gap": self.gap, "absorbed": self.absorbed, "start": self.start, "end": self.end}
        return {**sums, "conservation": self.conservation.document(), "blocks": blocks}


def _worse(one: float, other: float) -> float:
    """Return the larger, and NaN if either is: what cannot be computed is no good."""
    return other if math.isnan(other) else one if math.isnan(one) else max(one, other)
