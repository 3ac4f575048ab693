"""What happens while a network is trained, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """An optimizer step: number `step` of `steps` in this epoch, on `pictures` pictures; `loss` is their mean."""

    epoch: int
    step: int
    steps: int
    pictures: int
    loss: float


@dataclass(frozen=True)
class Row:
    """An epoch, as a line of the metrics file. Losses are mean cross entropies, accuracies in [0, 1].

    Attributes:
        epoch: from 0.
        lr: learning rate of its last step.
        train_loss: over the epoch, while the weights changed.
        train_accuracy: likewise.
        val_loss: on the pictures held out, after the epoch; None where none are.
        val_accuracy: likewise.
        seconds: it took, validation included.
        pictures_per_second: training pictures over these seconds.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    pictures_per_second: float


@dataclass(frozen=True)
class Finished:
    """The run is complete: its rows, the epoch (from 0) whose weights were kept, and the file that holds them."""

    rows: tuple[Row, ...]
    kept: int
    weights: Path


Event = Step | Row | Finished
