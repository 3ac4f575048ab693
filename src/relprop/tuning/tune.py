"""From a model and labelled pictures to layer weights, chosen on some of them and measured on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relprop.core.composites.presets import COMPOSITES
from relprop.core.graph.separators import find_separators
from relprop.core.lrp import LRP
from relprop.errors import UsageError
from relprop.explainers import EXPLAINERS, Explainer
from relprop.explainers.cuts import LayerWeights, chosen_on
from relprop.metrics import InsertionDeletion
from relprop.metrics.forward import callable_model
from relprop.tuning.candidates import COMPOSITES as DEFAULT_COMPOSITES
from relprop.tuning.candidates import SHARES, WIDTHS, Candidate, grid
from relprop.tuning.choose import Validation, cross_validate, mean_and_error, require_disjoint, split_samples

if TYPE_CHECKING:
    from relprop.core.capture import Model
    from relprop.core.result.relevance import Relevance
    from relprop.data import Dataset, Sample
    from relprop.models import LoadedModel

Progress = Callable[[str, int], None]
"""Called with what is done and how many images were, after each batch."""


@dataclass(frozen=True)
class Settings:
    """How to choose; `composites`, `shares` and `widths` are what is tried (`candidates.grid`)."""

    samples: int = 100  # images to choose on
    report: int = 100  # other images to report on
    folds: int = 5  # of the cross-validation
    step: float | None = None  # pixels a step of the fair protocol, below 1 a fraction; None for its own
    seed: int = 0  # of the choice of images and of the folds
    composites: tuple[str, ...] = DEFAULT_COMPOSITES
    shares: tuple[float, ...] = SHARES
    widths: tuple[float, ...] = WIDTHS
    references: tuple[str, ...] = ("lrp-cuts", "grad-cam", "lrp")  # compared with the choice on the images reported
    batch: int = 16  # images at once
    amp: bool = False  # score masked pictures in bfloat16 where autocast allows it; the maps are made as ever

    def __post_init__(self) -> None:
        for name in ("samples", "report", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for composite in self.composites:
            COMPOSITES.build(composite)


@dataclass(frozen=True)
class Compared:
    """A map on the images reported: its ID, and that of the chosen one less it, both with standard errors."""

    explainer: str
    mean: float
    error: float | None
    difference: float
    difference_error: float | None


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and what it is worth."""

    weights: LayerWeights  # to save
    validation: Validation  # of the choice, on the images of the selection
    report: tuple[Compared, ...]  # the chosen weights first, then the references, on images used for no choice
    tried: tuple[tuple[Candidate, float], ...]  # candidates and their mean ID on the selection, best first


def tune(loaded: LoadedModel, data: Dataset, settings: Settings, progress: Progress | None = None) -> Tuned:
    """Choose the layer weights with the best Insertion - Deletion under the fair protocol; report it on other images.

    Raises:
        UsageError: too few images, or a network or rules that cannot be read.
    """
    metric = InsertionDeletion("fair", step=settings.step, amp=settings.amp)
    references = {spec: EXPLAINERS.build(spec) for spec in settings.references}
    used = chosen_on(references.values(), data.samples)
    choosing, reporting = split_samples(data.samples, settings.samples, settings.report, settings.seed, used)
    selection, report = {s.id: s.label for s in choosing}, [s.id for s in reporting]
    require_disjoint(selection, report)
    if not 2 <= settings.folds <= len(selection):
        raise UsageError(f"{len(selection)} images take 2 to {len(selection)} folds, not {settings.folds}")
    for batch in _batches(loaded, data, choosing[:1], 1, "", None):
        for explain in references.values():
            explain(loaded.model, batch.x, batch.target)  # a library that is missing shows now, not after an hour
    batches = _batches(loaded, data, choosing, settings.batch, "choosing", progress)
    candidates, scores = _try(loaded, metric, batches, settings)
    validation = cross_validate(scores, settings.folds, settings.seed)
    best = candidates[validation.choice]
    weights = LayerWeights(best.weights, best.composite)
    batches = _batches(loaded, data, reporting, settings.batch, "reporting", progress)
    compared = _report(loaded, metric, batches, weights, references)
    means = scores.double().mean(1)
    order = means.argsort(descending=True, stable=True).tolist()
    tried = tuple((candidates[k], float(means[k])) for k in order)
    provenance = {
        "relprop": version("relprop"),
        "torch": torch.__version__,
        "model": loaded.name,
        "source": loaded.source,
        "data": data.name,
        "protocol": asdict(metric.settings()),
        "settings": asdict(settings),
        "selection": selection,
        "cross_validated_id": [validation.mean, validation.error],
        "chosen_without_each_fold": [asdict(candidates[k]) for k in validation.choices],
        "candidates": [asdict(candidate) | {"id": mean} for candidate, mean in tried],
        "report": {"images": report, "id": [asdict(one) for one in compared]},
    }
    return Tuned(LayerWeights(best.weights, best.composite, provenance), validation, compared, tried)


@dataclass(frozen=True)
class _Batch:
    x: Tensor
    target: Tensor


def _batches(
    loaded: LoadedModel,
    data: Dataset,
    samples: Sequence[Sample],
    size: int,
    what: str,
    progress: Progress | None,
) -> Iterator[_Batch]:
    """Read pictures and find the classes that are predicted."""
    weights = loaded.model.parameters() if isinstance(loaded.model, torch.nn.Module) else ()
    device = next((weight.device for weight in weights), torch.device("cpu"))
    for start in range(0, len(samples), size):
        x = torch.stack([loaded.preprocess(data.load(s)) for s in samples[start : start + size]]).to(device)
        with torch.no_grad():
            yield _Batch(x, callable_model(loaded.model)(x).argmax(1))
        if progress is not None:
            progress(what, len(x))


def _try(
    loaded: LoadedModel, metric: InsertionDeletion, batches: Iterator[_Batch], settings: Settings
) -> tuple[tuple[Candidate, ...], Tensor]:
    """ID of every candidate on every image, (M, N). One backward pass of each composite serves all its weights."""
    candidates: tuple[Candidate, ...] = ()
    lrps: dict[str, LRP] = {}
    scores = []
    for batch in batches:
        if not candidates:
            graph = LRP(loaded.model).graph(batch.x)
            candidates = grid(find_separators(graph), settings.composites, settings.shares, settings.widths)
            keep = [*dict.fromkeys(name for c in candidates for name in c.by_layer)]
            lrps = {
                spec: LRP(loaded.model, COMPOSITES.build(spec), keep=keep, ledger=False) for spec in settings.composites
            }
        results = {spec: lrp(batch.x, target=batch.target) for spec, lrp in lrps.items()}
        maps = torch.stack([results[c.composite].combine(c.by_layer) for c in candidates])
        scores.append(metric(loaded.model, batch.x, maps, batch.target, preprocess=loaded.preprocess)["id"])
    return candidates, torch.cat(scores, 1)


def _report(
    loaded: LoadedModel,
    metric: InsertionDeletion,
    batches: Iterator[_Batch],
    weights: LayerWeights,
    references: Mapping[str, Explainer],
) -> tuple[Compared, ...]:
    """ID of the choice and of the references on images used for no choice."""
    lrp = LRP(loaded.model, COMPOSITES.build(weights.composite), keep=[*weights.by_layer], ledger=False)

    def chosen(model: Model, x: Tensor, target: Tensor) -> Tensor:
        result: Relevance = lrp(x, target=target)
        return result.combine(weights.by_layer)

    explainers: dict[str, Explainer] = {"chosen": chosen, **references}
    scores = []
    for batch in batches:
        maps = torch.stack([explain(loaded.model, batch.x, batch.target) for explain in explainers.values()])
        scores.append(metric(loaded.model, batch.x, maps, batch.target, preprocess=loaded.preprocess)["id"])
    values = torch.cat(scores, 1)
    return tuple(
        Compared(name, *mean_and_error(values[row]), *mean_and_error(values[0] - values[row]))
        for row, name in enumerate(explainers)
    )
