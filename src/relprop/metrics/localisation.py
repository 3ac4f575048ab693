"""Whether a heatmap lies on the object, where somebody marked it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from relprop.errors import InputError, UsageError
from relprop.metrics.base import METRICS, Array, Inputs, Metric


@METRICS.register("energy-in-box")
@dataclass(frozen=True)
class EnergyInBox(Metric):
    """Share of the positive relevance that lies on the object (energy-based pointing game); nothing positive: 0."""

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"energy-in-box": True}
    unit: ClassVar[str] = "fraction of the positive relevance"
    reference: ClassVar[str] = "Wang et al. 2020, arXiv 1910.01279, Sec. 4.3"
    needs_object: ClassVar[bool] = True

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """(N, H, W) -> (N,)."""
        energy = inputs.heatmap.double().clamp(min=0)
        total = energy.sum((-2, -1)).clamp(min=torch.finfo(torch.float64).tiny)
        return {"energy-in-box": ((energy * _object(inputs)).sum((-2, -1)) / total).float()}


@METRICS.register("pointing-game")
@dataclass(frozen=True)
class PointingGame(Metric):
    """Whether the most relevant pixel lies on the object: 1 or 0; if several are tied, the fraction of them that do."""

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"pointing-game": True}
    unit: ClassVar[str] = "hit (1) or miss (0)"
    reference: ClassVar[str] = "Zhang et al. 2016, arXiv 1608.00507"
    needs_object: ClassVar[bool] = True

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """(N, H, W) -> (N,)."""
        top = (inputs.heatmap == inputs.heatmap.amax((-2, -1), keepdim=True)).float()
        return {"pointing-game": (top * _object(inputs)).sum((-2, -1)) / top.sum((-2, -1))}


def box_mask(boxes: Array, height: int, width: int) -> Tensor:
    """Which pixels' centres lie in a box: (N, 4) -> (N, H, W) bool.

    Args:
        boxes: left, top, right, bottom in pixels of the network's input; pixel i spans i to i + 1.
        height, width: of the input.

    Raises:
        InputError: another shape, or a box that ends before it begins.
    """
    found = torch.as_tensor(boxes).double()
    if found.dim() != 2 or found.shape[1] != 4 or not bool((found[:, :2] <= found[:, 2:]).all()):
        raise InputError(
            f"boxes must be (N, 4): left, top, right, bottom with left <= right and top <= bottom; got "
            f"{tuple(found.shape)}"
        )
    left, top, right, bottom = found[:, :, None].unbind(1)
    across = torch.arange(width, device=found.device) + 0.5
    down = torch.arange(height, device=found.device) + 0.5
    columns, rows = (left <= across) & (across < right), (top <= down) & (down < bottom)
    return rows[:, :, None] & columns[:, None, :]


def _object(inputs: Inputs) -> Tensor:
    """Which pixels lie on the object, (N, H, W) bool."""
    inside, boxes, x = inputs.inside, inputs.boxes, inputs.x
    if inside is None and boxes is None:
        raise UsageError(
            "this metric needs to know where the object is; pass inside=(N, H, W) or boxes=(N, 4) "
            "(data sets with boxes: cub)"
        )
    mask = box_mask(boxes, *x.shape[-2:]) if inside is None and boxes is not None else torch.as_tensor(inside)
    if tuple(mask.shape) != (len(x), *x.shape[-2:]):
        raise InputError(f"inside must be {(len(x), *x.shape[-2:])}, one mask a sample; got {tuple(mask.shape)}")
    return mask.to(x.device)
