"""Small networks for the command line to load: `--arch cli_tiny:network`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """A convolution, one residual block with an identity skip, and a classifier of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv1(x))
        h = torch.relu(h + self.block(h))
        return self.fc(h.mean((2, 3)))


class Odd(Tiny):
    """The same, with two operations that no rule exists for."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.fft.fft2(self.conv1(x)).abs()
        return self.fc(h.sort(dim=1).values.mean((2, 3)))


def network(num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


def odd(num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return Odd().eval()


class Branching(Tiny):
    """The same, which looks again at dark images."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv1(x))
        h = torch.relu(h + self.block(h))
        if x.mean() < 100:
            h = torch.relu(h + self.block(h))
        return self.fc(h.mean((2, 3)))


def branching(num_classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return Branching().eval()
