"""What a trained network can do, measured on the file that is used: its model card and its learning curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.errors import DataError, ModelError
from relprop.files import write_atomically
from relprop.models import load_model
from relprop.tables import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from relprop.data import Dataset
    from relprop.training.recipes import Recipe
    from relprop.training.state import Row


_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#888888"  # colour-blind readers can tell them apart


@dataclass(frozen=True, eq=False)
class Report:
    """A network's answers on a data set."""

    name: str  # of the data set
    confusion: Tensor  # (classes, classes), int64: how many pictures of class i (row) were called j (column)
    loss: float  # mean cross entropy

    @property
    def count(self) -> int:
        """How many pictures."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.confusion.diagonal().sum().item() / self.count

    @property
    def standard_error(self) -> float:
        """Of the accuracy: sqrt(a (1 - a) / n)."""
        return float((self.accuracy * (1 - self.accuracy) / self.count) ** 0.5)


def measure(
    weights: Path | str, dataset: Dataset, *, arch: str | None = None, device: str = "cpu", batch: int = 200
) -> Report:
    """Load a weights file as any user of it would, and let it classify `dataset`.

    A file's metadata import nothing, so a network of the user's own (`package.module:factory`) needs its `arch`.

    Raises:
        ModelError: the file cannot be loaded.
        DataError: the data set has classes that the network does not know.
    """
    loaded = load_model(str(weights), arch=arch, device=device)
    if not isinstance(loaded.model, nn.Module):
        raise ModelError(f"{weights} is an exported program; give a weights file")
    confusion, loss = torch.zeros(0, 0, dtype=torch.int64), 0.0
    for start in range(0, len(dataset), batch):
        samples = dataset.samples[start : start + batch]
        x = torch.stack([loaded.preprocess(dataset.load(sample)) for sample in samples])
        labels = torch.tensor([sample.label for sample in samples])
        with torch.inference_mode():
            logits = loaded.model(x.to(device)).float().cpu()
        classes = logits.shape[1]
        if labels.max() >= classes:
            raise DataError(f"{dataset.name} has label {int(labels.max())}; {weights} knows 0 to {classes - 1}")
        if not len(confusion):
            confusion = torch.zeros(classes, classes, dtype=torch.int64)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        pairs = torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        confusion += pairs.view(classes, classes)
    return Report(dataset.name, confusion, loss / max(len(dataset), 1))


def card(
    title: str,
    recipe: Recipe,
    seed: int,
    command: str,
    rows: Sequence[Row],
    kept: int,
    classes: Sequence[str],
    report: Report | None,
) -> str:
    """Write a model card in Markdown: what it is, how it was trained, what it can do."""
    parts = [
        f"# {title}",
        f"{recipe.arch}, {len(classes)} classes, input {recipe.size} x {recipe.size}; weights in {recipe.store}.",
        "## How it was trained",
        f"    {command}",
        (
            f"Recipe `{recipe.name}`, seed {seed}: {len(rows)} epochs in {sum(row.seconds for row in rows) / 60:.0f} "
            f"minutes; the weights of epoch {kept + 1} were kept.{_validation(rows[kept])} All settings:"
        ),
        "\n".join(f"    {line}" for line in str(recipe).splitlines()),
    ]
    if report is not None:
        accuracy = (
            f"Accuracy on the {report.count:,} test pictures, of this file as loaded: **{report.accuracy:.2%}** "
            f"(standard error {report.standard_error:.2%}); cross entropy {report.loss:.3f}."
        )
        parts += ["## What it can do", accuracy, _confusion(report, classes)]
    return "\n\n".join(parts) + "\n"


def _validation(row: Row) -> str:
    if row.val_accuracy is None or row.val_loss is None:
        return ""
    return f" On the pictures held out: accuracy {row.val_accuracy:.1%}, cross entropy {row.val_loss:.3f}."


def _confusion(report: Report, classes: Sequence[str], most: int = 20) -> str:
    """Return the matrix as a table; for more than `most` classes the `most` frequent confusions."""
    if len(classes) > most:
        wrong = report.confusion - report.confusion.diagonal().diag()
        values, cells = wrong.flatten().topk(most)
        rows = [
            [classes[cell // len(classes)], classes[cell % len(classes)], str(count)]
            for count, cell in zip(values.tolist(), cells.tolist(), strict=True)
            if count
        ]
        return "Most frequent confusions:\n\n" + markdown(["class", "taken for", "pictures"], rows, names=2)
    rows = [[name, *map(str, row)] for name, row in zip(classes, report.confusion.tolist(), strict=True)]
    return "Confusion matrix, rows: the class, columns: the answer.\n\n" + markdown(["", *classes], rows)


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
    rate.plot(epochs, [row.lr for row in rows], color=_GREY, marker=".", markersize=3)
    rate.set_ylabel("learning rate, last step")
    for axes in (loss, error, rate):
        axes.set_xlabel("epoch")
        axes.axvline(kept + 1, color=_GREY, linewidth=0.8, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    write_atomically(path, lambda beside: figure.savefig(beside, format=path.suffix[1:], dpi=150))


def _pair(axes: Axes, epochs: list[int], train: list[float], held: list[float | None], label: str) -> None:
    axes.plot(epochs, train, color=_BLUE, marker=".", markersize=3, label="training")
    shown = [(epoch, value) for epoch, value in zip(epochs, held, strict=True) if value is not None]
    if shown:
        axes.plot(*zip(*shown, strict=True), color=_ORANGE, marker=".", markersize=3, label="validation")
    axes.set_ylabel(label)
