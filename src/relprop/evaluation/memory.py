"""`relprop.evaluate`: an evaluation in memory, by the same code as a run on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from relprop.data import Dataset, Sample, balanced, open_dataset
from relprop.errors import InputError, UsageError
from relprop.evaluation.compute import chunk_rows
from relprop.evaluation.plan import ModelSpec, Plan, with_controls
from relprop.evaluation.rows import Rows
from relprop.evaluation.setup import Samples, assemble, choose, explainers_of, load, samples_of

if TYPE_CHECKING:
    from relprop.explainer import Explainer
    from relprop.images import Preprocess
    from relprop.models import LoadedModel

Specs = str | Sequence[str]


def evaluate(
    model: Any,
    data: str | Dataset | tuple[Tensor, Any],
    explainers: Specs | Mapping[str, Explainer] = ("lrp",),
    *,
    post: Specs = ("none",),
    metrics: Specs = ("insertion-deletion",),
    protocol: Specs = ("fair",),
    step: float | None = None,
    samples: int | None = None,
    seed: int = 0,
    target: Literal["predicted", "label"] = "predicted",
    batch: int = 16,
    curves: bool = False,
    amp: bool = False,
    controls: bool = True,
    preprocess: Preprocess | None = None,
) -> Rows:
    """Measure explanations of a model, one row per sample, explainer, post-processing, metric and protocol.

    Args:
        model: a module in evaluation mode, what `load_model` returns, or a name that it knows.
        data: a spec such as `folder:ROOT`, a `Dataset`, or inputs (N, C, H, W) with their labels (N,). Samples that
            an explainer was chosen on (`relprop tune`) are left out of a data set.
        explainers: specs, or callables (model, x, target) -> heatmap (N, H, W) by name.
        post: specs of post-processing steps, each applied to each explainer.
        metrics: specs.
        protocol: specs of masking protocols.
        step: pixels masked a step, below 1 a fraction of them; None leaves it to the protocol.
        samples: how many to take, equally many of each class; None takes all.
        seed: of the choice of samples, of random ties, and of whatever draws from torch's generators.
        target: explain the class that the model predicts, or the sample's label.
        batch: samples computed together.
        curves: keep the curves behind the scores.
        amp: run the model in bfloat16 for the metrics that mask.
        controls: add the controls `constant` and `random`.
        preprocess: from picture to input; needed where `model` is a module and `data` are pictures. With inputs it says
            what black is.

    Raises:
        UsageError: a spec that cannot be built, or no `preprocess` where one is needed.
        InputError: inputs and labels that do not fit together.
    """
    loaded = _loaded(model)
    net, prepare = (model, preprocess) if loaded is None else (loaded.model, preprocess or loaded.preprocess)
    named = dict(explainers) if isinstance(explainers, Mapping) else dict.fromkeys(_specs(explainers))
    device = _device_of(net)
    plan = Plan(
        model=ModelSpec(loaded.name if loaded is not None else type(net).__name__),
        data=data if isinstance(data, str) else data.name if isinstance(data, Dataset) else "inputs in memory",
        explainers=with_controls(tuple(named)) if controls else tuple(named),
        post=_specs(post),
        metrics=_specs(metrics),
        protocols=_specs(protocol),
        step=step,
        samples=samples,
        seed=seed,
        target=target,
        batch=batch,
        threads=torch.get_num_threads(),
        device=torch.device(device).type,
        curves=curves,
        amp=amp,
    )
    custom = {name: call for name, call in named.items() if call is not None}
    found = explainers_of(plan, custom)
    setup = assemble(plan, net, _samples(data, plan, found, prepare), found, device, prepare)
    return Rows(plan, tuple(row for chunk in range(setup.chunks) for row in chunk_rows(setup, chunk)))


def _loaded(model: Any) -> LoadedModel | None:
    from relprop.models import LoadedModel

    if isinstance(model, str):
        return load(ModelSpec(model), "cpu")
    return model if isinstance(model, LoadedModel) else None


def _specs(given: Specs) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _device_of(model: Any) -> str:
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return str(first.device) if first is not None else "cpu"


def _samples(
    data: str | Dataset | tuple[Tensor, Any],
    plan: Plan,
    explainers: Mapping[str, Explainer],
    preprocess: Preprocess | None,
) -> Samples:
    if isinstance(data, tuple):
        return _from_tensors(*data, plan)
    if preprocess is None:
        raise UsageError(
            "a module does not say how pictures become its inputs; give preprocess=relprop.images.Preprocess(...), or "
            "a model from relprop.models.load_model, or inputs and labels as data=(x, y)"
        )
    dataset = open_dataset(data) if isinstance(data, str) else data
    return samples_of(dataset, *choose(dataset, plan, explainers), preprocess)


def _from_tensors(x: Tensor, y: Any, plan: Plan) -> Samples:
    labels = torch.as_tensor(y).reshape(-1).tolist()
    if x.dim() != 4 or len(x) != len(labels) or not x.is_floating_point():
        raise InputError(
            f"data=(x, y) takes inputs (N, C, H, W) of floats and N labels; x is {tuple(x.shape)} of {x.dtype}, and "
            f"there are {len(labels)} labels"
        )
    every = [Sample(f"{at:06d}", int(label)) for at, label in enumerate(labels)]
    return Samples(balanced(every, plan.samples, plan.seed), lambda sample: x[int(sample.id)])
