"""The learning curve as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from relprop.training.events import Row

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"  # colour-blind readers can tell them apart


def draw_curve(path: Path, rows: Sequence[Row], kept: int, title: str) -> None:
    """Draw loss, error rate and learning rate by epoch, the kept epoch marked; PNG, PDF or SVG by the suffix."""
    from matplotlib.figure import Figure  # no pyplot: nothing global is touched

    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, error, rate = figure.subplots(1, 3)
    epochs = [row.epoch + 1 for row in rows]
    _pair(loss, epochs, [row.train_loss for row in rows], [row.val_loss for row in rows], "cross entropy")
    _pair(
        error,
        epochs,
        [100 * (1 - row.train_accuracy) for row in rows],
        [None if row.val_accuracy is None else 100 * (1 - row.val_accuracy) for row in rows],
        "error, percent",
    )
    rate.plot(epochs, [row.lr for row in rows], color=GREY, marker=".", markersize=3)
    rate.set_ylabel("learning rate, last step")
    for axes in (loss, error, rate):
        axes.set_xlabel("epoch")
        axes.axvline(kept + 1, color=GREY, linewidth=0.8, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    write_atomically(path, lambda beside: figure.savefig(beside, format=path.suffix[1:], dpi=150))


def _pair(axes: Axes, epochs: list[int], train: list[float], held: list[float | None], label: str) -> None:
    axes.plot(epochs, train, color=BLUE, marker=".", markersize=3, label="training")
    shown = [(epoch, value) for epoch, value in zip(epochs, held, strict=True) if value is not None]
    if shown:
        axes.plot(*zip(*shown, strict=True), color=ORANGE, marker=".", markersize=3, label="validation")
    axes.set_ylabel(label)
