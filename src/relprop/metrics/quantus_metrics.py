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
from relprop.metrics.base import METRICS, Inputs, Metric


@METRICS.register("sparseness")
@dataclass(frozen=True)
class Sparseness(Metric):
    """Gini index of the map's magnitudes (Chalasani et al. 2020), by Quantus: 0 is even, near 1 is few pixels."""

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"sparseness": None}
    unit: ClassVar[str] = "Gini index, 0 to 1"
    reference: ClassVar[str] = "Chalasani et al. 2020, arXiv 1810.06583"

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """(N, H, W) -> (N,). A map of zeros is spread evenly: 0."""
        maps = inputs.heatmap.double()
        # the index does not know the scale; ones in place of zeros keep Quantus from dividing by 0
        largest = maps.abs().amax((-2, -1), keepdim=True)
        maps = torch.where(largest > 0, maps / largest.clamp(min=torch.finfo(torch.float64).tiny), 1.0)
        quantus = require("quantus", "quantus")
        with _quiet():
            index = quantus.Sparseness(normalise=False, disable_warnings=True)
            values = index(**_batch(inputs.x, inputs.classes, maps), model=None)
        return {"sparseness": torch.tensor(values, dtype=torch.float32, device=inputs.x.device)}


@METRICS.register("parameter-randomisation")
@dataclass(frozen=True)
class ParameterRandomisation(Metric):
    """How alike the map stays while weights are randomised from the top layer down (Adebayo et al. 2018), by Quantus.

    The last value, when all are random, or the mean over layers. A map that stays as it is does not read the weights.
    For the mean the map is made anew after every layer that has weights: a ResNet-50 has 107 of them. A constant map
    ranks no pixel before another: its rank correlation is what random ties give on average, 0, but 1 with itself.
    """

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"parameter-randomisation": False}
    unit: ClassVar[str] = "similarity of the maps, 1 where nothing changes"
    reference: ClassVar[str] = "Adebayo et al. 2018, arXiv 1810.03292"

    similarity: Literal["rank", "ssim"] = "rank"  # "rank" (Spearman) or "ssim"
    # "all" randomises one more layer at a time and averages; "last" looks at the fully random model alone
    layers: Literal["all", "last"] = "last"
    seed: int = 0  # of the random weights

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """(N, H, W) -> (N,); the explainer that made the heatmap explains the random models."""
        alike = _similarity(self.similarity, *inputs.x.shape[-2:])
        first, classes = _flat(inputs.heatmap), inputs.classes
        wrapper = require("quantus.helpers.model.pytorch_model", "quantus").PyTorchModel
        scores = []
        with _quiet(), torch.random.fork_rng():  # it seeds torch's global generator
            quantus_model = wrapper(unwrap(inputs.model), softmax=False, channel_first=True)
            count = quantus_model.random_layer_generator_length
            for number, (_, random) in enumerate(quantus_model.get_random_layer_generator("top_down", self.seed), 1):
                if self.layers == "all" or number == count:
                    changed = inputs.explain(random.eval(), classes, "parameter-randomisation makes maps anew")
                    scores.append(alike(first, _flat(changed)))
        if not scores:
            raise UsageError(
                f"{type(inputs.model).__name__} has no layer with reset_parameters(), so none can be randomised"
            )
        values = torch.tensor(scores, dtype=torch.float64).mean(0)
        if not bool(values.isfinite().all()):
            bad = ", ".join(map(str, (~values.isfinite()).nonzero().flatten().tolist()))
            raise CheckError(f"parameter-randomisation has no value for sample(s) {bad}: a map of theirs is not finite")
        return {"parameter-randomisation": values.float().to(inputs.x.device)}


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
