"""Pictures made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def noise() -> Callable[..., Image.Image]:
    """A colour picture of random pixels, always the same for one size."""

    def make(width: int, height: int) -> Image.Image:
        values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(values)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures, other files, a hidden file and a subfolder."""
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "c.webp", "sub/d.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    Image.new("RGB", (4, 4)).save(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path
