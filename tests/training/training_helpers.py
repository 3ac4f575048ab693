"""Networks and pictures small enough to work out by hand."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from relprop.data import Dataset, Sample, open_dataset
from relprop.training import RECIPES, Row, override, train


class Means(nn.Module):
    """Logits from the mean of each colour: 3 inputs, 2 classes, weights and bias 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean(dim=(2, 3)))


class Dropped(Means):
    """With dropout, whose draws must not depend on when a run was resumed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.dropout(x.mean(dim=(2, 3)), 0.5, self.training))


def pictures(colours, classes=None):
    """A data set of 8x8 pictures; picture i has one colour (an RGB triple, or one of an 8x8x3 array)."""
    arrays = [np.broadcast_to(np.asarray(colour, dtype=np.uint8), (8, 8, 3)) for colour, _ in colours]
    samples = tuple(Sample(f"{index:03d}", label) for index, (_, label) in enumerate(colours))
    return Dataset("memory", samples, lambda sample: Image.fromarray(arrays[int(sample.id)]), classes)


def losses_of_a_run(root, out, devices):
    """Train `Means` on a folder; returns training and validation loss by epoch, in text, as this process was told."""
    recipe = override(
        RECIPES.build("cifar10"),
        "arch=training_helpers:Means",
        "size=8",
        "resize=8",
        "pad=0",
        "batch=8",
        "holdout=0.25",
        "epochs=2",
        "lr=1",
        "ema=0",
        "precision=32-true",
        "store=float32",
    )
    events = train(recipe, open_dataset(f"folder:{root}"), Path(out), seed=0, device="cpu", devices=devices)
    rows = [event for event in events if isinstance(event, Row)]
    return str([(round(row.train_loss, 5), round(row.val_loss, 5)) for row in rows])
