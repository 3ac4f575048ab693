"""The signatures of an explainer and of a post-processing step: whatever has them is one."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Explainer(Protocol):
    """Anything that says how much each pixel mattered."""

    def __call__(self, model: Any, x: Tensor, target: Tensor) -> Tensor:
        """Explain `target` (N,) for inputs x (N, C, H, W): a heatmap (N, H, W), float32. `model` stays untouched."""
        ...


class Post(Protocol):
    """A named step between heatmap and metric."""

    def __call__(self, heatmap: Tensor, /) -> Tensor:
        """Map heatmaps (N, H, W) to heatmaps (N, H, W)."""
        ...
