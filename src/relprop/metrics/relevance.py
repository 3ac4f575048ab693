"""What a heatmap says about itself: how much it conserves, how it follows the class, how it spreads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from relprop.errors import UsageError
from relprop.metrics.base import METRICS, Array, Classes, read_classes, read_heatmap, read_input
from relprop.metrics.forward import Forward, callable_model

Explain = Callable[[Any, Tensor, Tensor], Tensor]


@METRICS.register("conservation-gap")
@dataclass(frozen=True)
class ConservationGap:
    """How far a heatmap's total is from the score it explains: |Σ R - p| / |p|.

    Attributes:
        score: "probability" (the paper's start) or "logit".
    """

    name: ClassVar[str] = "conservation-gap"
    rows: ClassVar[tuple[str, ...]] = ("conservation-gap",)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"conservation-gap": False}
    unit: ClassVar[str] = "fraction of the score"
    reference: ClassVar[str] = "Otsuki et al. 2024, arXiv 2407.09115, Fig. 7"

    score: Literal["probability", "logit"] = "probability"

    def __call__(self, model: Any, x: Array, heatmap: Array, target: Classes, **_: Any) -> dict[str, Tensor]:
        """(N, H, W) -> (N,)."""
        x = read_input(x)
        total = read_heatmap(heatmap, x).double().sum((-2, -1))
        classes = read_classes(target, x, "explained class")
        start = Forward().scores(model, lambda a, b: x[a:b], classes, x, logit=self.score == "logit").double()
        gap = (total - start).abs() / start.abs().clamp(min=torch.finfo(torch.float32).tiny)
        return {self.name: gap.float()}


@METRICS.register("class-sensitivity")
@dataclass(frozen=True)
class ClassSensitivity:
    """How much the map changes for another class: 1 - rank correlation. 0 is a map that ignores the class.

    Attributes:
        against: the other class: the most probable of the rest ("next"), or the least probable of all ("last").
    """

    name: ClassVar[str] = "class-sensitivity"
    rows: ClassVar[tuple[str, ...]] = ("class-sensitivity",)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"class-sensitivity": True}
    unit: ClassVar[str] = "1 - Spearman's rank correlation, 0 to 2"
    reference: ClassVar[str] = "Sixt, Granz, Landgraf 2020, arXiv 1912.09818"

    against: Literal["next", "last"] = "next"

    def __call__(
        self,
        model: Any,
        x: Array,
        heatmap: Array,
        target: Classes,
        *,
        explainer: Explain | None = None,
        post: Callable[[Tensor], Tensor] | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """(N, H, W) -> (N,); `explainer` (and `post`) made the heatmap and explains the other class."""
        x = read_input(x)
        maps, classes = read_heatmap(heatmap, x), read_classes(target, x, "explained class")
        if explainer is None:
            raise UsageError(
                "class-sensitivity explains another class; pass explainer=..., the one that made the heatmap"
            )
        with torch.no_grad():
            scores = callable_model(model)(x).scatter(
                1, classes[:, None], float("-inf" if self.against == "next" else "inf")
            )
        other = scores.argmax(1) if self.against == "next" else scores.argmin(1)
        changed = explainer(model, x, other)
        return {self.name: 1 - rank_correlation(maps, changed if post is None else post(changed))}


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
