"""On what an experiment is repeated: models, data, pictures, and how the run is split."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from relprop.evaluation import ModelSpec
from relprop.evaluation.plan import short_data, short_model

SEED = "{seed}"


@dataclass(frozen=True)
class Setting:
    """What is used instead of the paper's ResNet-50 and its pictures."""

    models: tuple[ModelSpec, ...]  # one or several
    data: str  # spec of the data set
    samples: int  # how many pictures, equally many of each class
    seeds: tuple[int, ...] = (0,)  # of the choice of pictures; several repeat all with other pictures
    # rules of the proposed method: "paper" (exact) or "released" (the authors' code)
    composite: Literal["paper", "released"] = "paper"
    cam_layer: str | None = None  # module whose maps Grad-CAM and Score-CAM read; None for the last
    methods: tuple[str, ...] = ()  # rows to leave in Table 1 and Figure 5; empty for all
    also: tuple[str, ...] = ()  # explainers beside those of Table 1
    variants: tuple[str, ...] = ("i",)  # rows of Table 2 that Table 3 shows with and without quantization
    images: tuple[str, ...] = ()  # pictures by id, file name, class or file, for the figures that show some
    step: float | None = None  # pixels masked a step; None leaves it to the protocols
    batch: int = 16  # pictures computed together
    amp: bool = False  # score masked pictures in bfloat16, those of Score-CAM and RISE too
    device: str = "cpu"  # where, "cpu", "cuda:1", ...

    def runs(self) -> Iterator[tuple[ModelSpec, int]]:
        """Yield each model with each seed."""
        return itertools.product(self.models, self.seeds)

    @property
    def kind(self) -> str:
        """Kind of the data set."""
        return self.data.partition(":")[0]

    @property
    def data_name(self) -> str:
        """The data set without the way to it, for captions: "parquet:test.parquet"."""
        return short_data(self.data)

    @property
    def model_names(self) -> str:
        """The models without the way to them."""
        return ", ".join(short_model(model.name) for model in self.models)


def with_seeds(models: Sequence[str], seeds: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Put each seed into names that hold `{seed}`: returns names, and the seeds that are left for the pictures."""
    if not any(SEED in name for name in models):
        return tuple(models), tuple(seeds)
    named = [name.replace(SEED, str(seed)) for name in models for seed in (seeds if SEED in name else seeds[:1])]
    return tuple(named), (0,)
