from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # so that --arch cli_tiny:network is found

import cli_tiny


@pytest.fixture
def model(tmp_path) -> list[str]:
    """Options that load the tiny network from a checkpoint."""
    torch.save(cli_tiny.network().state_dict(), tmp_path / "tiny.pt")
    return ["--model", str(tmp_path / "tiny.pt"), "--arch", "cli_tiny:network", *SIZE]


SIZE = ["--size", "16", "--mean", "0.5", "--std", "0.25", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path):
    """A folder with three photographs of noise."""
    made = tmp_path / "photographs"
    made.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    for name, array in zip("abc", pixels, strict=True):
        Image.fromarray(array).save(made / f"{name}.png")
    return made
