"""A setup that somebody can check by hand: pictures of one grey, explainers and metrics of one line."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from relprop.data import Sample
from relprop.errors import DataError
from relprop.evaluation.plan import ModelSpec, Plan
from relprop.evaluation.setup import Measure, Samples, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Sums(nn.Module):
    """Class 0 scores the sum of the picture, class 1 its negative."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum(dim=(1, 2, 3))
        return torch.stack([total, -total], 1)


def itself(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return x.sum(1)


def noise(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return torch.rand(len(x), *x.shape[-2:])


def total(model: nn.Module, x: Tensor, heatmap: Tensor, target: Tensor, label: Tensor) -> dict[str, Tensor]:
    return {"total": heatmap.sum(dim=(1, 2)), "label": label.float()}


@dataclass(frozen=True)
class Slow:
    """The same, taking its time."""

    seconds: float

    def __call__(self, model: nn.Module, x: Tensor, heatmap: Tensor, target: Tensor) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        return {"total": heatmap.sum(dim=(1, 2))}


def plan_of(**changes: object) -> Plan:
    given: dict[str, object] = {"model": ModelSpec("sums"), "data": "doubles", "explainers": ("itself",), "batch": 4}
    return Plan(**{**given, **changes})  # type: ignore[arg-type]


def grey(sample: Sample) -> Tensor:
    """1 x 2 x 2, every pixel the number in the sample's id; "broken" cannot be read."""
    if sample.id == "broken":
        raise DataError("sample broken of doubles cannot be read: it is damaged")
    return torch.full((1, 2, 2), float(sample.id))


def setup_of(
    ids: list[str],
    explainers: Mapping[str, Callable[..., Tensor]] | None = None,
    posts: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    measures: list[Measure] | None = None,
    **changes: object,
) -> Setup:
    explainers = explainers or {"itself": itself}
    posts = posts or {"none": lambda heatmap: heatmap}
    plan = plan_of(explainers=tuple(explainers), post=tuple(posts), **changes)
    samples = [Sample(name, label=at % 2) for at, name in enumerate(ids)]
    return Setup(
        plan, Sums().eval(), Samples(samples, grey), explainers, posts, measures or [Measure(total, ("total", "label"))]
    )
