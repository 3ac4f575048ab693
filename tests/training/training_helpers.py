"""Networks and pictures small enough to work out by hand."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from relprop.data import Dataset, Sample


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
