"""A network that reads a watermark, and pictures of which some carry one; `watermark:make` is a model name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

OPTIONS = ["--model", "watermark:make", "--size", "32", "--mean", "0", "--std", "1", "--device", "cpu"]


class Reader(nn.Module):
    """Class 1 scores what is green (the object), and ten times as much what is blue (the watermark)."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, 2, 3, padding=1, bias=True)
        self.score = nn.Linear(2, 2)
        with torch.no_grad():
            self.colours.weight.zero_()
            self.colours.weight[0] = torch.tensor([-1.0, 1.0, -1.0])[:, None, None] / 9
            self.colours.weight[1] = torch.tensor([-1.0, -1.0, 1.0])[:, None, None] / 9
            self.colours.bias.zero_()
            self.score.weight.copy_(torch.tensor([[0.0, 0.0], [20.0, 200.0]]))
            self.score.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.colours(x).relu().mean((2, 3)))


def make() -> Reader:
    return Reader().eval()


def picture(seed: int, *, marked: bool) -> Image.Image:
    """Grey noise with a green square about the middle; with the watermark, a blue strip at the lower left."""
    draw = np.random.default_rng(seed)
    pixels = np.repeat(draw.integers(90, 130, (32, 32, 1), dtype=np.uint8), 3, axis=2)
    top, left = draw.integers(8, 15, 2)
    pixels[top : top + 9, left : left + 9] = (40, 200, 40)
    if marked:
        pixels[27:30, 2:12] = (40, 40, 220)
    return Image.fromarray(pixels)


def write(root: Path, plain: int = 30, marked: int = 12) -> Path:
    """Write pictures as ROOT/cat (without the object) and ROOT/horse, some of which are marked by their name too."""
    for name in ("cat", "horse"):
        (root / name).mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(np.full((32, 32, 3), 60 * seed + 20, np.uint8)).save(root / "cat" / f"{seed}.png")
    for seed in range(plain + marked):
        is_marked = seed >= plain
        picture(seed, marked=is_marked).save(root / "horse" / f"{'marked' if is_marked else 'plain'}-{seed:02d}.png")
    return root
