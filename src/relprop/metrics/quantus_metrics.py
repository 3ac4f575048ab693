"""Metrics of the Quantus library, through its own API (Hedström et al. 2023)."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from relprop.core.capture import unwrap
from relprop.errors import CheckError, UsageError, require
from relprop.metrics.base import METRICS, Array, Classes, read_classes, read_heatmap, read_input

Explain = Callable[[Any, Tensor, Tensor], Tensor]


@METRICS.register("sparseness")
@dataclass(frozen=True)
class Sparseness:
    """Gini index of the map's magnitudes (Chalasani et al. 2020), by Quantus: 0 is even, near 1 is few pixels."""

    name: ClassVar[str] = "sparseness"
    rows: ClassVar[tuple[str, ...]] = ("sparseness",)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"sparseness": None}
    unit: ClassVar[str] = "Gini index, 0 to 1"
    reference: ClassVar[str] = "Chalasani et al. 2020, arXiv 1810.06583"

    def __call__(self, model: Any, x: Array, heatmap: Array, target: Classes, **_: Any) -> dict[str, Tensor]:
        """(N, H, W) -> (N,). A map of zeros is spread evenly: 0."""
        x = read_input(x)
        maps = read_heatmap(heatmap, x).double()
        # the index does not know the scale; ones in place of zeros keep Quantus from dividing by 0
        largest = maps.abs().amax((-2, -1), keepdim=True)
        maps = torch.where(largest > 0, maps / largest.clamp(min=torch.finfo(torch.float64).tiny), 1.0)
        quantus = require("quantus", "quantus")
        with _quiet():
            values = quantus.Sparseness(normalise=False, disable_warnings=True)(
                **_batch(x, read_classes(target, x, "explained class"), maps), model=None
            )
        return {self.name: torch.tensor(values, dtype=torch.float32, device=x.device)}


@METRICS.register("parameter-randomisation")
@dataclass(frozen=True)
class ParameterRandomisation:
    """How alike the map stays while weights are randomised from the top layer down (Adebayo et al. 2018), by Quantus.

    The last value, when all are random, or the mean over layers. A map that stays as it is does not read the weights.
    For the mean the map is made anew after every layer that has weights: a ResNet-50 has 107 of them. A constant map
    ranks no pixel before another: its rank correlation is what random ties give on average, 0, but 1 with itself.

    Attributes:
        similarity: "rank" (Spearman) or "ssim".
        layers: "all" randomises one more layer at a time and averages; "last" looks at the fully random model alone.
        seed: of the random weights.
    """

    name: ClassVar[str] = "parameter-randomisation"
    rows: ClassVar[tuple[str, ...]] = ("parameter-randomisation",)
    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"parameter-randomisation": False}
    unit: ClassVar[str] = "similarity of the maps, 1 where nothing changes"
    reference: ClassVar[str] = "Adebayo et al. 2018, arXiv 1810.03292"

    similarity: Literal["rank", "ssim"] = "rank"
    layers: Literal["all", "last"] = "last"
    seed: int = 0

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
        """(N, H, W) -> (N,); `explainer` (and `post`) made the heatmap, and explains the random models."""
        x = read_input(x)
        maps, classes = read_heatmap(heatmap, x), read_classes(target, x, "explained class")
        if explainer is None:
            raise UsageError(
                "parameter-randomisation makes maps anew; pass explainer=..., the one that made the heatmap"
            )

        def explain(model: Any) -> Tensor:
            found = explainer(model.eval(), x, classes)
            return found if post is None else post(found)

        alike, first = _similarity(self.similarity, *x.shape[-2:]), _flat(maps)
        wrapper = require("quantus.helpers.model.pytorch_model", "quantus").PyTorchModel
        scores = []
        with _quiet(), torch.random.fork_rng():  # it seeds torch's global generator
            quantus_model = wrapper(unwrap(model), softmax=False, channel_first=True)
            count = quantus_model.random_layer_generator_length
            for number, (_, random) in enumerate(quantus_model.get_random_layer_generator("top_down", self.seed), 1):
                if self.layers == "all" or number == count:
                    scores.append(alike(first, _flat(explain(random))))
        if not scores:
            raise UsageError(f"{type(model).__name__} has no layer with reset_parameters(), so none can be randomised")
        values = torch.tensor(scores, dtype=torch.float64).mean(0)
        if not bool(values.isfinite().all()):
            bad = ", ".join(map(str, (~values.isfinite()).nonzero().flatten().tolist()))
            raise CheckError(f"parameter-randomisation has no value for sample(s) {bad}: a map of theirs is not finite")
        return {self.name: values.float().to(x.device)}


def _flat(maps: Tensor) -> np.ndarray[Any, Any]:
    flat: np.ndarray[Any, Any] = maps.detach().cpu().double().flatten(1).numpy()
    return flat


def _similarity(kind: str, height: int, width: int) -> Callable[[Any, Any], list[float]]:
    """How alike maps are, pair by pair: (N, P), (N, P) to N values."""
    if kind == "rank":
        spearman = require("scipy.stats", "quantus").spearmanr

        def likeness(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
            constant = np.ptp(first) == 0 or np.ptp(second) == 0
            if constant and np.isfinite(second).all():
                return float(np.array_equal(first, second))
            return float(spearman(first, second).statistic)
    else:
        structural = require("skimage.metrics", "quantus").structural_similarity
        window = min(7, (min(height, width) - 1) // 2 * 2 + 1)

        def likeness(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
            span = max(first.max(), second.max()) - min(first.min(), second.min())
            pair = first.reshape(height, width), second.reshape(height, width)
            return float(structural(*pair, win_size=window, data_range=span)) if span else 1.0

    return lambda a, b: [likeness(first, second) for first, second in zip(a, b, strict=True)]


def _batch(x: Tensor, classes: Tensor, maps: Tensor) -> dict[str, Any]:
    """In Quantus' words: numpy, and a map with one channel."""
    return {
        "x_batch": x.cpu().numpy(),
        "y_batch": classes.cpu().numpy(),
        "a_batch": maps[:, None].cpu().double().numpy(),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what Quantus prints and warns of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
