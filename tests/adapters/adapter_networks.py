"""Networks on which relprop and another library have to agree: the other one must be able to explain them."""

from __future__ import annotations

import torch
from torch import nn


class Plain(nn.Module):
    """Convolutions, pooling, linear layers; no residual join and no shared module, which peers get wrong."""

    def __init__(self, bias: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, padding=1, bias=bias), nn.ReLU()
        self.fc1, self.relu3 = nn.Linear(8 * 16, 12, bias=bias), nn.ReLU()
        self.fc2 = nn.Linear(12, 5, bias=bias)
        self.eval()

    def forward(self, x):
        h = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x)))))
        return self.fc2(self.relu3(self.fc1(torch.flatten(h, 1))))


def plain(bias: bool = False, seed: int = 0) -> Plain:
    return Plain(bias, seed)


class Residual(nn.Module):
    """A small residual network; `scale` is a further argument of its forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 5)
        self.eval()

    def forward(self, x, scale=None, power: int = 1):
        h = torch.relu(self.conv1(x))
        h = torch.relu(self.conv2(h) + h).mean((2, 3))
        if scale is not None:
            h = h * scale
        return self.fc(h) * power


def images(count: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))
