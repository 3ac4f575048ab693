"""Learning rates and early stopping, as pure functions of where training stands.

A schedule maps a `Position` to a factor of the base learning rate. None of them holds state: a plateau is read
off the history of validation losses, so a resumed run needs nothing but that history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relprop.registry import Registry


@dataclass(frozen=True)
class Position:
    """Where training stands."""

    epoch: float  # epochs done, with the fraction of the present one (2.5: half of the third epoch is done)
    epochs: int  # epochs in all
    losses: tuple[float, ...] = ()  # validation loss after each epoch that is done


Schedule = Callable[[Position], float]
"""Factor of the base learning rate at a position, usually from 0 to 1."""

SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant:
    """The base learning rate throughout."""

    def __call__(self, at: Position) -> float:
        """Return 1."""
        return 1.0


@SCHEDULES.register("step")
@dataclass(frozen=True)
class Step:
    """Times `factor` after every `every` epochs (what the text of the released CUB script says)."""

    every: int = 30
    factor: float = 0.1

    def __call__(self, at: Position) -> float:
        """Return factor^floor(epoch / every)."""
        return float(self.factor ** (math.floor(at.epoch) // self.every))


@SCHEDULES.register("plateau")
@dataclass(frozen=True)
class Plateau:
    """Times `factor` whenever the validation loss has not improved for more than `patience` epochs.

    The released CUB configuration names it: factor 0.333, patience 1. An improvement is a loss below (1 - `threshold`)
    times the best, as in `torch.optim.lr_scheduler.ReduceLROnPlateau`.
    """

    factor: float = 0.333
    patience: int = 1
    threshold: float = 1e-4

    def __call__(self, at: Position) -> float:
        """Return factor^(number of plateaus met so far)."""
        cuts, best, waited = 0, math.inf, 0
        for loss in at.losses:
            best, waited = (loss, 0) if loss < best * (1 - self.threshold) else (best, waited + 1)
            if waited > self.patience:
                cuts, waited = cuts + 1, 0
        return float(self.factor**cuts)


@SCHEDULES.register("released")
@dataclass(frozen=True)
class Released:
    """What the released CUB script does: it passes the validation loss to `StepLR.step`, which takes it for the epoch.

    So the rate falls only while the loss is at or above `every`. A loss of CUB is below 6 from the start, and the rate
    stays what it was.
    """

    every: int = 30
    factor: float = 0.1

    def __call__(self, at: Position) -> float:
        """Return factor^floor(last validation loss / every), 1 before there is one."""
        if not at.losses or not math.isfinite(at.losses[-1]):
            return 1.0
        return float(self.factor ** (math.floor(at.losses[-1]) // self.every))


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine:
    """Linear warm-up over `warmup` of all epochs, then half a cosine down to 0."""

    warmup: float = 0.05

    def __call__(self, at: Position) -> float:
        """Return t / warmup, then (1 + cos(pi (t - warmup) / (1 - warmup))) / 2, for t = epoch / epochs."""
        t = at.epoch / at.epochs
        if t < self.warmup:
            return t / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (t - self.warmup) / (1 - self.warmup)))


@SCHEDULES.register("one-cycle")
@dataclass(frozen=True)
class OneCycle:
    """Linear up over `warmup` of all epochs, linear down to 0 (after Smith 2018, arXiv 1803.09820)."""

    warmup: float = 0.25

    def __call__(self, at: Position) -> float:
        """Return min(t / warmup, (1 - t) / (1 - warmup)), for t = epoch / epochs."""
        t = at.epoch / at.epochs
        return min(t / self.warmup if self.warmup else 1.0, (1 - t) / (1 - self.warmup))


def best_epoch(losses: Sequence[float]) -> int:
    """Index of the lowest validation loss, the first among equals; `losses` must not be empty.

    A loss that is not a number never wins.
    """
    return min(range(len(losses)), key=lambda epoch: (math.isnan(losses[epoch]), losses[epoch]))


def should_stop(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no new best validation loss (never, for None)."""
    return patience is not None and len(losses) > 0 and len(losses) - 1 - best_epoch(losses) >= patience
