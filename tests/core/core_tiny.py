"""A small residual network for contracts and messages, and images for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(h))
        out += h
        return self.drop(self.relu(out).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class Ends(Tiny):
    """The same with something else at the end."""

    def __init__(self, end) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor):
        return self.end(self.fc(self.features(x)))


def images(count: int = 2, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
