"""Controls: maps that know nothing of the network. What they score is what the metric gives away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.capture import Model
from relprop.explainers.base import EXPLAINERS
from relprop.seeding import fingerprint, generators


@EXPLAINERS.register("constant")
@dataclass(frozen=True)
class Constant:
    """Every pixel alike."""

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W) ones."""
        return torch.ones(len(x), *x.shape[-2:], device=x.device)


@EXPLAINERS.register("random")
@dataclass(frozen=True)
class Random:
    """Independent uniform noise, drawn from the picture's content and the seed."""

    seed: int = 0

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W) in [0, 1)."""
        drawn = [torch.rand(x.shape[-2:], generator=each) for each in generators(fingerprint(x, self.seed))]
        return torch.stack(drawn).to(x.device)


@EXPLAINERS.register("gaussian")
@dataclass(frozen=True)
class Gaussian:
    """A bump in the middle, since photographers centre what they photograph."""

    sigma: float = 0.25  # its standard deviation, as a fraction of the side

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W) in (0, 1]."""
        sides = [(torch.arange(side, device=x.device) + 0.5) / side - 0.5 for side in x.shape[-2:]]
        rows, columns = (torch.exp(-(side**2) / (2 * self.sigma**2)) for side in sides)
        return (rows[:, None] * columns).repeat(len(x), 1, 1)


@EXPLAINERS.register("sobel")
@dataclass(frozen=True)
class Sobel:
    """Edges of the picture: magnitude of the Sobel gradient of the mean over channels."""

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        grey = F.pad(x.detach().float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device)
        gradient = F.conv2d(grey, torch.stack([across, across.T])[:, None])
        return gradient.square().sum(1).sqrt()
