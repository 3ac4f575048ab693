"""The small residual network that the tests share, and images for it; `tiny:make` is a model name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# options of the command line for `tiny:make` on images of 8 x 8 pixels
OPTIONS = ["--model", "tiny:make", "--size", "8", "--mean", "0.5", "--std", "0.25", "--device", "cpu"]


class Tiny(nn.Module):
    """A convolution, a residual block with an identity skip, and a classifier; takes images of any size."""

    def __init__(self, seed: int = 0, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc = nn.Linear(4, classes)
        self.eval()

    def maps(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(h))
        out += h
        return self.relu(out)

    def features(self, x: Tensor) -> Tensor:
        return self.drop(self.maps(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class Ends(Tiny):
    """The same with something else at the end."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(super().forward(x))


class Does(nn.Module):
    """A function of its input, whose results are the scores."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def make(num_classes: int = 2) -> Tiny:
    """The network with always the same weights; the generator of random numbers stays where it was."""
    with torch.random.fork_rng():
        return Tiny(classes=num_classes)


def images(count: int = 2, size: int = 8) -> Tensor:
    """Inputs (count, 3, size, size), always the same."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def picture(seed: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """An RGB image of random pixels; `size` is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pictures(root: Path, count: int, size: int = 8) -> Path:
    """Write `count` images to a folder: 0_cat.000.png and 1_dog.001.png in turn, of the classes 0 and 1."""
    root.mkdir(parents=True, exist_ok=True)
    for at in range(count):
        picture(at, (size, size)).save(root / f"{at % 2}_{('cat', 'dog')[at % 2]}.{at:03d}.png")
    return root
