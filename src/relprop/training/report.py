"""What a trained network can do, measured on the file that is used, and written on its model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.errors import DataError, ModelError
from relprop.models import load_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from relprop.data import Dataset
    from relprop.training.events import Row
    from relprop.training.recipes import Recipe


@dataclass(frozen=True, eq=False)
class Report:
    """A network's answers on a data set.

    Attributes:
        name: of the data set.
        confusion: (classes, classes), int64: how many pictures of class i (row) were called j (column).
        loss: mean cross entropy.
    """

    name: str
    confusion: Tensor
    loss: float

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
        parts += ["## What it can do", _accuracy(report), _confusion(report, classes)]
    return "\n\n".join(parts) + "\n"


def _validation(row: Row) -> str:
    if row.val_accuracy is None or row.val_loss is None:
        return ""
    return f" On the pictures held out: accuracy {row.val_accuracy:.1%}, cross entropy {row.val_loss:.3f}."


def _accuracy(report: Report) -> str:
    return (
        f"Accuracy on the {report.count:,} test pictures, of this file as loaded: **{report.accuracy:.2%}** "
        f"(standard error {report.standard_error:.2%}); cross entropy {report.loss:.3f}."
    )


def _confusion(report: Report, classes: Sequence[str], most: int = 20) -> str:
    """Return the matrix as a table; for more than `most` classes the `most` frequent confusions."""
    if len(classes) > most:
        wrong = report.confusion - report.confusion.diagonal().diag()
        values, cells = wrong.flatten().topk(most)
        lines = [
            f"| {classes[cell // len(classes)]} | {classes[cell % len(classes)]} | {count} |"
            for count, cell in zip(values.tolist(), cells.tolist(), strict=True)
            if count
        ]
        return "\n".join(["Most frequent confusions:\n", "| class | taken for | pictures |", "|---|---|--:|", *lines])
    head = ["Confusion matrix, rows: the class, columns: the answer.\n", "| | " + " | ".join(classes) + " |"]
    rule = "|---|" + "--:|" * len(classes)
    body = [
        f"| {name} | " + " | ".join(map(str, row)) + " |"
        for name, row in zip(classes, report.confusion.tolist(), strict=True)
    ]
    return "\n".join([*head, rule, *body])
