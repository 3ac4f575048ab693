"""Table 2: symmetric or ratio-based splitting, with and without identity joins, quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.reproduce.maps import Map, alike, controls, proposed, quantization
from relprop.reproduce.published import Against, published

if TYPE_CHECKING:
    from relprop.reproduce.setting import Setting

VARIANTS = {"i": ("symmetric", False), "ii": ("symmetric", True), "iii": ("ratio", False), "iv": ("ratio", True)}
"""Split, and whether identity joins share."""


def maps(setting: Setting, against: Against = "imagenet") -> tuple[Map, ...]:
    """Rows of Table 2, then the controls, quantized too."""
    post = quantization(setting)
    rows = published("table2", against).rows
    found = [alike(row.name, proposed(setting, *VARIANTS[row.key]), post, row.key) for row in rows]
    return (*found, *controls(post))
