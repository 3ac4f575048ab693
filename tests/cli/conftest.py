from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # so that --arch cli_networks:odd is found

from tiny import make, picture


@pytest.fixture
def model(tmp_path) -> list[str]:
    """Options that load the tiny network from a checkpoint."""
    torch.save(make(5).state_dict(), tmp_path / "tiny.pt")
    return ["--model", str(tmp_path / "tiny.pt"), "--arch", "tiny:make", *SIZE]


SIZE = ["--size", "16", "--mean", "0.5", "--std", "0.25", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path):
    """A folder with three photographs of noise."""
    made = tmp_path / "photographs"
    made.mkdir()
    for seed, name in enumerate("abc"):
        picture(seed, (24, 24)).save(made / f"{name}.png")
    return made
