"""What a heatmap says about itself: how much it conserves, how it follows the class, how it spreads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from relprop.metrics.base import METRICS, Inputs, Metric
from relprop.metrics.forward import Forward, callable_model


@METRICS.register("conservation-gap")
@dataclass(frozen=True)
class ConservationGap(Metric):
    """How far a heatmap's total is from the score it explains: |Σ R - p| / |p|."""

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"conservation-gap": False}
    unit: ClassVar[str] = "fraction of the score"
    reference: ClassVar[str] = "Otsuki et al. 2024, arXiv 2407.09115, Fig. 7"

    score: Literal["probability", "logit"] = "probability"  # "probability" (the paper's start) or "logit"

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """(N, H, W) -> (N,)."""
        x = inputs.x
        total = inputs.heatmap.double().sum((-2, -1))
        logit = self.score == "logit"
        start = Forward().scores(inputs.model, lambda a, b: x[a:b], inputs.classes, x, logit=logit).double()
        gap = (total - start).abs() / start.abs().clamp(min=torch.finfo(torch.float32).tiny)
        return {"conservation-gap": gap.float()}


@METRICS.register("class-sensitivity")
@dataclass(frozen=True)
class ClassSensitivity(Metric):
    """How much the map changes for another class: 1 - rank correlation. 0 is a map that ignores the class."""

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"class-sensitivity": True}
    unit: ClassVar[str] = "1 - Spearman's rank correlation, 0 to 2"
    reference: ClassVar[str] = "Sixt, Granz, Landgraf 2020, arXiv 1912.09818"

    # the other class: the most probable of the rest ("next"), or the least probable of all ("last")
    against: Literal["next", "last"] = "next"

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """(N, H, W) -> (N,); the explainer that made the heatmap explains the other class."""
        explained = inputs.classes[:, None]
        with torch.no_grad():
            scores = callable_model(inputs.model)(inputs.x)
        if self.against == "next":
            other = scores.scatter(1, explained, float("-inf")).argmax(1)
        else:
            other = scores.scatter(1, explained, float("inf")).argmin(1)
        changed = inputs.explain(inputs.model, other, "class-sensitivity explains another class")
        return {"class-sensitivity": 1 - rank_correlation(inputs.heatmap, changed)}


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of maps (N, H, W): (N,). Tied values share their mean rank.

    Two constant maps correlate perfectly; a constant map and another not at all.
    """
    first, second = (ranks(maps.flatten(1)) for maps in (a, b))
    first, second = (rank - rank.mean(1, keepdim=True) for rank in (first, second))
    scale = first.norm(dim=1) * second.norm(dim=1)
    both = (first.norm(dim=1) == 0) & (second.norm(dim=1) == 0)
    correlation = (first * second).sum(1) / scale.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(both, 1.0, correlation).float()


def ranks(values: Tensor) -> Tensor:
    """Mean rank of each value in its row, (N, P) -> (N, P) float64: those below, and half of those equal to it."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + up_to).double() / 2
