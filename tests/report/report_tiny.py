"""A network, pictures and studies that a report is made of in milliseconds; `report_tiny:make` is a model name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from relprop.images import Preprocess
from relprop.models import LoadedModel
from relprop.report import Workbench

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("ant", "<script>alert(1)</script>")
PREPARE = Preprocess(size=8, resize=8, mean=(0.5,), std=(0.25,))


class Tiny(nn.Module):
    """A residual block on 8 x 8 pictures, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.conv1(x))
        h = self.relu(self.conv2(h) + h)
        return self.fc(h.mean((2, 3)))


def make() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny().eval()


def workbench() -> Workbench:
    return Workbench(LoadedModel(make(), "tiny", PREPARE, CLASSES, "weights in /home/somebody/models/tiny.pt"))


def picture(seed: int = 0, size: int = 8) -> Image.Image:
    draw = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (size, size, 3), generator=draw, dtype=torch.uint8).numpy())


def pictures(root: Path, n: int) -> Path:
    """Write n pictures of noise, classes 0 and 1 in turn."""
    root.mkdir(parents=True, exist_ok=True)
    for at in range(n):
        picture(at).save(root / f"{at % 2}_{at:03d}.png")
    return root
