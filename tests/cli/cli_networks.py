"""Variants of the tiny network that the command line has to say something about: `--arch cli_networks:odd`."""

from __future__ import annotations

import torch
from torch import Tensor

from tiny import Tiny


class Odd(Tiny):
    """With two operations that no rule exists for."""

    def features(self, x: Tensor) -> Tensor:
        h = torch.fft.fft2(self.conv1(x)).abs()
        return h.logcumsumexp(dim=1).mean((2, 3))


class Branching(Tiny):
    """Has a second residual join where an image is dark."""

    def features(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv1(x))
        h = torch.relu(h + self.conv2(h))
        if x.mean() < 100:
            h = torch.relu(h + self.conv2(h))
        return h.mean((2, 3))


def odd(num_classes: int = 5) -> Tiny:
    return Odd(classes=num_classes)


def branching(num_classes: int = 5) -> Tiny:
    return Branching(classes=num_classes)
