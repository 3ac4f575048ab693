"""Checkpoints made on the spot, as training scripts save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from relprop.cifar import CifarResNet, cifar_resnet


@pytest.fixture
def net() -> CifarResNet:
    """A small network whose every number is its own, batch-norm statistics included."""
    torch.manual_seed(3)
    model = cifar_resnet(8, shortcut="A").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def x() -> torch.Tensor:
    """Two normalised pictures."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Save anything the way torch.save does; returns the path."""

    def save(content: Any, name: str = "weights.pth", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save
