"""The ledger of relevance: what each step received, what it sent on, and what is missing.

A difference at a rule that must conserve is a *leak*; elsewhere (bias, ε, units that see padding alone) it is
*absorbed*. Both are judged against the sum of absolute relevance, since signed relevance cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.errors import ConservationError

#: the numbers of an entry, (N,) each
COLUMNS = ("received", "sent", "magnitude", "outside")


@dataclass(frozen=True, eq=False)
class Entry:
    """One step of the ledger; sums are (N,) float64, over everything but the batch.

    Attributes:
        name, op, rule: of the step.
        conserves: whether its rule must.
        received: relevance that arrived.
        sent: relevance passed on to its inputs.
        magnitude: sum of absolute relevance that arrived.
        outside: relevance that arrived at positions which do not depend on the image: it can only be absorbed.
    """

    name: str
    op: str
    rule: str
    conserves: bool
    received: Tensor
    sent: Tensor
    magnitude: Tensor
    outside: Tensor | float = 0.0

    def column(self, name: str) -> Tensor:
        """(N,) one of `COLUMNS`."""
        value: Tensor | float = getattr(self, name)
        return value if isinstance(value, Tensor) else torch.full_like(self.sent, value)


@dataclass(frozen=True)
class Conservation:
    """Two statements that must not be taken for one another: no rule leaks, and what arrives is the score.

    A composite whose rules absorb relevance (bias, ε) leaks nothing, and still its map does not sum to the score.

    Attributes:
        gap: largest leak at any layer, relative; see `Ledger.gap`.
        absorbed: share of the score that does not arrive at the image: positive where rules absorbed it, negative where
            they created some. The largest of all explanations in size; NaN if any is.
    """

    gap: float
    absorbed: float
    SCORE_RTOL: ClassVar[float] = 1e-4

    def leaks(self, rtol: float = 1e-5) -> bool:
        """Whether a leak exceeds `rtol`. True for NaN."""
        return not self.gap <= rtol

    @property
    def conserves_score(self) -> bool:
        """Whether what arrives is the score, to a ten-thousandth of it. False for NaN."""
        return abs(self.absorbed) <= self.SCORE_RTOL

    def leak_text(self, rtol: float = 1e-5) -> str:
        """Whether relevance leaks, in words, with the figure."""
        if self.leaks(rtol):
            return f"relevance leaks: {self.gap:.1e} of it at the worst layer, more than {rtol:g}"
        return f"no leak: at most {self.gap:.1e} of the relevance at any layer"

    @property
    def score_text(self) -> str:
        """Whether the score is conserved, in words; where it is not, the share that was absorbed or created."""
        if self.conserves_score:
            return "the score is conserved: relevance sums to it"
        if not math.isfinite(self.absorbed):
            return "the score is not conserved: the relevance is not finite"
        size = abs(self.absorbed)
        share = f"{100 * size:.3g} % of it" if size < 10 else f"{size:.3g} times as much"
        return f"the score is not conserved: rules {'absorbed' if self.absorbed > 0 else 'created'} {share}"

    def document(self, rtol: float = 1e-5) -> dict[str, Any]:
        """Both statements for manifests and the app, as JSON knows them."""
        return {
            "no_leak": not self.leaks(rtol),
            "gap": self.gap,
            "leak_text": self.leak_text(rtol),
            "conserves_score": self.conserves_score,
            "absorbed_of_score": self.absorbed,
            "score_text": self.score_text,
        }


@dataclass(frozen=True, eq=False)
class Ledger:
    """The ledger of one explanation.

    Attributes:
        entries: one a step, from the output to the input.
        start: (N,) relevance that the output began with.
        end: (N,) relevance that arrived at the image.
    """

    entries: tuple[Entry, ...]
    start: Tensor
    end: Tensor

    @classmethod
    def of_columns(cls, steps: Sequence[Entry], columns: Mapping[str, Tensor], start: Tensor, end: Tensor) -> Ledger:
        """A ledger of some steps with other numbers: (steps, N) in each of `COLUMNS`, (N,) at both ends."""
        rows = zip(*(columns[name] for name in COLUMNS), strict=True)
        entries = (replace(step, **dict(zip(COLUMNS, row, strict=True))) for step, row in zip(steps, rows, strict=True))
        return cls(tuple(entries), start, end)

    def columns(self) -> dict[str, Tensor]:
        """Each of `COLUMNS`, (steps, N)."""
        return {name: _rows([entry.column(name) for entry in self.entries], self.start) for name in COLUMNS}

    @classmethod
    def stack(cls, parts: Sequence[Ledger]) -> Ledger:
        """One ledger of several over the same steps: samples (N,) of K ledgers become N·K, row by row."""
        if len(parts) == 1:
            return parts[0]
        tables = [part.columns() for part in parts]
        columns = {name: torch.stack([table[name] for table in tables], -1).flatten(1) for name in COLUMNS}
        start, end = (torch.stack([getattr(part, side) for part in parts], 1).flatten() for side in ("start", "end"))
        return cls.of_columns(parts[0].entries, columns, start, end)

    @classmethod
    def cat(cls, parts: Sequence[Ledger]) -> Ledger | None:
        """One ledger of those for parts of a batch; None of none.

        A step that some images do not take, where the model branches, has zeros for them.
        """
        if not parts:
            return None
        steps = {(entry.name, entry.rule): entry for part in parts for entry in part.entries}
        tables = [{(entry.name, entry.rule): entry for entry in part.entries} for part in parts]
        blanks = [
            Entry("", "", "", True, zero, zero, zero) for zero in (torch.zeros_like(part.start) for part in parts)
        ]
        pairs = [*zip(tables, blanks, strict=True)]
        start, end = (torch.cat([getattr(part, side) for part in parts]) for side in ("start", "end"))
        columns = {
            name: _rows([torch.cat([table.get(k, blank).column(name) for table, blank in pairs]) for k in steps], start)
            for name in COLUMNS
        }
        return cls.of_columns([*steps.values()], columns, start, end)

    def slice(self, at: slice) -> Ledger:
        """That of some of the samples."""
        columns = {name: column[:, at] for name, column in self.columns().items()}
        return Ledger.of_columns(self.entries, columns, self.start[at], self.end[at])

    def conservation(self, arrived: Tensor | None = None) -> Conservation:
        """The two statements about these explanations, each for the worst of them.

        Args:
            arrived: (N,) sums of the maps that are shown, where these are not the relevance of the image.
        """
        end = self.end if arrived is None else arrived.to(self.end)
        whole = torch.maximum(self.entries[0].magnitude.abs(), self.start.abs()) if self.entries else self.start.abs()
        shares = (self.start - end) / whole.clamp(min=torch.finfo(self.start.dtype).tiny)
        size = shares.abs()
        worst = int((~size.isfinite()).long().argmax() if not bool(size.isfinite().all()) else size.argmax())
        return Conservation(self.gap, float(shares[worst]))

    @cached_property
    def scale(self) -> Tensor:
        """(steps, N) what differences are judged against: absolute relevance at the step, or at the start if more."""
        tiny = torch.finfo(self.start.dtype).tiny
        start = torch.maximum(self.start.abs(), self.entries[0].magnitude.abs()).clamp(min=tiny)
        return torch.stack([torch.maximum(e.magnitude.abs(), start) for e in self.entries])

    @cached_property
    def leaks(self) -> Tensor:
        """(steps, N) relevance that got lost (or arose, if negative) where it must not."""
        return torch.stack(
            [e.received - e.outside - e.sent if e.conserves else torch.zeros_like(e.sent) for e in self.entries]
        )

    @cached_property
    def absorptions(self) -> Tensor:
        """(steps, N) relevance that a rule absorbed (or made, if negative) as it says it does."""
        return torch.stack([0 * e.sent + e.outside if e.conserves else e.received - e.sent for e in self.entries])

    @cached_property
    def gaps(self) -> Tensor:
        """(steps, N) absolute leak of each step, relative."""
        return self.leaks.abs() / self.scale

    @cached_property
    def drift(self) -> Tensor:
        """(steps, N) leak added up from the output to each step, relative: how far relevance there is off the start."""
        return self.leaks.cumsum(0).abs() / self.scale

    @property
    def gap(self) -> float:
        """Largest relative leak, over all steps, layers and samples; never negative, NaN if any number is."""
        return float(torch.maximum(self.gaps.max(), self.drift.max()))

    @property
    def absorbed(self) -> float:
        """Largest relative amount absorbed on the way to any layer, over samples."""
        return float((self.absorptions.abs().cumsum(0) / self.scale).max())

    def balances(self, rtol: float = 1e-5) -> bool:
        """Whether no leak exceeds `rtol`; what rules absorb is no leak (see `conservation`). False for NaN."""
        return self.gap <= rtol

    def require_balance(self, rtol: float = 1e-5) -> None:
        """Raise unless relevance is conserved.

        Raises:
            ConservationError: names the first step, counted from the output, that leaks.
        """
        if self.balances(rtol):
            return
        worst = torch.maximum(self.gaps, self.drift).amax(1)
        bad = int((~(worst <= rtol)).nonzero()[0])
        entry = self.entries[bad]
        raise ConservationError(
            f"relevance leaks at {entry.name} ({entry.op}, rule {entry.rule}): {float(self.gaps[bad].max()):.2e} of it "
            f"there, {self.gap:.2e} at worst, more than rtol={rtol:g}. If the rule is your own, let it say "
            "conserves=False, or share all that it receives."
        )

    def table(self, by: str = "layer") -> str:
        """The ledger as text: one line a step that changes sums ("layer"), or a step ("step"), worst sample each."""
        width = max(len(entry.name) for entry in self.entries)
        lines = [f"{'layer':{width}}  {'rule':18}  {'received':>12}  {'sent':>12}  {'leak':>9}  {'absorbed':>9}"]
        for entry, gap, took, scale in zip(self.entries, self.gaps, self.absorptions, self.scale, strict=True):
            if by == "layer" and entry.rule == "pass":
                continue
            received, sent = float(entry.received.sum()), float(entry.sent.sum())
            lines.append(
                f"{entry.name:{width}}  {entry.rule:18}  {received:12.6f}  {sent:12.6f}"
                f"  {float(gap.max()):9.1e}  {float((took.abs() / scale).max()):9.1e}"
            )
        lines.append(
            f"start {float(self.start.sum()):.6f}, image {float(self.end.sum()):.6f}, "
            f"largest leak {self.gap:.1e}, absorbed {self.absorbed:.1e}"
        )
        return "\n".join(lines)


def _rows(rows: list[Tensor], like: Tensor) -> Tensor:
    """(steps, N) of (N,) each; a network that computes nothing has no steps."""
    return torch.stack(rows) if rows else like.new_zeros((0, len(like)))
