"""A residual network small enough to repeat the paper with in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OPTIONS = ["--model", "reproduce_net:make", "--size", "8", "--mean", "0.5", "--std", "0.25", "--device", "cpu"]


class Mean(nn.Module):
    """Pooling that captum's LRP has no rule for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Net(nn.Module):
    """Two residual blocks on 8 x 8 pictures, one with an identity skip and one with a projection; two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
        self.skip = nn.Conv2d(4, 6, 1, stride=2)
        self.relu = nn.ReLU()
        self.mean = Mean()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.stem(x))
        h = self.relu(self.inner(h) + h)
        h = self.relu(self.down(h) + self.skip(h))
        return self.fc(self.mean(h))


class Plain(nn.Module):
    """No residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Net().eval()
        with torch.no_grad():
            made.fc.weight.mul_(4)  # so that pictures differ in probability
        return made


def make(num_classes: int = 2) -> nn.Module:
    return network()


def plain(num_classes: int = 2) -> nn.Module:
    return Plain().eval()
