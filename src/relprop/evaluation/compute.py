"""From samples to rows: all that an evaluation computes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from relprop.data import Sample
from relprop.errors import DataError, MissingDependencyError, RelpropError
from relprop.evaluation.rows import Row
from relprop.evaluation.setup import Measure, Setup
from relprop.explainer import Explainer, Post
from relprop.explainers.base import ByChannel, reduce_channels
from relprop.metrics.forward import callable_model
from relprop.seeding import mix

T = TypeVar("T")
_TOGETHER = 1 << 25  # pixels of maps that are scored together: their order takes eight bytes each


@dataclass(frozen=True)
class Failure:
    """Why there is no value."""

    reason: str


def chunk_rows(setup: Setup, chunk: int) -> list[Row]:
    """Compute all rows of a chunk: a function of the plan and `chunk` alone.

    Whatever fails becomes rows that say why: a picture that cannot be read, a heatmap that an explainer cannot make, a
    value that is not finite. A batch that fails is repeated sample by sample, so that a failure is a sample's own.
    """
    size = setup.plan.batch
    samples = setup.samples.chosen[chunk * size : (chunk + 1) * size]
    with _reproducible(setup.plan.threads):
        read = _each(lambda alive: [setup.samples.tensor(samples[at]) for at in alive], range(len(samples)))
        batch = _prepare(setup, samples, {at: x for at, x in read.items() if isinstance(x, Tensor)})
        rows = list(_rows(setup, samples, read, batch, chunk))
    order = {sample.id: at for at, sample in enumerate(samples)}
    return sorted(rows, key=lambda row: order[row.sample])  # stable: the plan's order within a sample


Key = tuple[str, str]
"""Specs of an explainer and of a post-processing: they name a map."""
Maps = Mapping[int, "Tensor | Failure"]
"""By position in the chunk."""


def _rows(
    setup: Setup, samples: Sequence[Sample], read: Mapping[int, Any], batch: _Batch | None, chunk: int
) -> Iterator[Row]:
    """Yield all rows; what failed on the way stands in for what would have come of it."""
    seeds = {spec: mix(setup.plan.seed, chunk, spec) for spec in setup.explainers}
    maps: dict[Key, Maps] = {}
    shared: dict[Any, Tensor] = {}
    for spec, explainer in setup.explainers.items():
        plain = _heatmaps(setup, batch, explainer, seeds[spec], shared) if batch else {}
        maps |= {(spec, name): _post_processed(post, plain) for name, post in setup.post_processing.items()}
    found = [_measured(setup, measure, batch, maps, seeds) if batch else {} for measure in setup.measures]
    for spec in setup.explainers:
        for measure, values in zip(setup.measures, found, strict=True):
            for key in maps:
                if key[0] == spec and setup.plan.measures(*key, measure.protocol):
                    mine = {at: value for (name, at), value in values.items() if name == key}
                    yield from _as_rows(samples, batch, key, measure, {**read, **maps[key], **mine})


@dataclass(frozen=True)
class _Batch:
    """The readable samples of a chunk: position in the chunk, input, label, explained class."""

    positions: list[int]
    x: Tensor
    label: Tensor
    target: Tensor
    inside: Tensor | None

    def take(self, positions: Sequence[int]) -> _Batch:
        at = [self.positions.index(place) for place in positions]
        inside = None if self.inside is None else self.inside[at]
        return _Batch(list(positions), self.x[at], self.label[at], self.target[at], inside)


def _prepare(setup: Setup, samples: Sequence[Sample], tensors: dict[int, Tensor]) -> _Batch | None:
    """Stack what could be read, and find out which class to explain."""
    if not tensors:
        return None
    positions = list(tensors)
    x = torch.stack([tensors[at] for at in positions]).to(setup.device)
    label = torch.tensor([samples[at].label for at in positions], device=setup.device)
    with torch.no_grad():
        output = callable_model(setup.model)(x)
    if int(label.max()) >= output.shape[1]:
        raise DataError(
            f"sample {samples[positions[int(label.argmax())]].id} has label {int(label.max())}, and the model knows "
            f"{output.shape[1]} classes; evaluate it on the classes that it was trained on"
        )
    target = output.argmax(1) if setup.plan.target == "predicted" else label
    see = setup.samples.inside
    inside = None if see is None else torch.stack([see(samples[at]) for at in positions]).to(setup.device)
    return _Batch(positions, x, label, target, inside)


def _heatmaps(setup: Setup, batch: _Batch, explainer: Explainer, seed: int, shared: dict[Any, Tensor]) -> Maps:
    """One heatmap (H, W) for each sample; `shared` holds the attributions that were made for other channels."""

    def explain(alive: Sequence[int]) -> list[Tensor]:
        part = batch.take(alive)
        with _seeded(seed):
            maps = _explained(setup.model, part, explainer, shared)
        if maps.shape != (len(alive), *part.x.shape[-2:]):
            raise ValueError(f"the heatmap is {tuple(maps.shape)}, not {(len(alive), *part.x.shape[-2:])}")
        return list(maps.detach())

    return {at: _finite(found) for at, found in _each(explain, batch.positions).items()}


def _explained(model: Any, part: _Batch, explainer: Explainer, shared: dict[Any, Tensor]) -> Tensor:
    if not isinstance(explainer, ByChannel):
        return explainer(model, part.x, part.target)
    key = replace(cast("Any", explainer), channels="sum"), tuple(part.positions)
    if key not in shared:
        shared[key] = explainer.attribute(model, part.x, part.target)
    return reduce_channels(shared[key], explainer.channels)


def _finite(heatmap: Tensor | Failure) -> Tensor | Failure:
    if isinstance(heatmap, Failure) or bool(heatmap.isfinite().all()):
        return heatmap
    bad = int((~heatmap.isfinite()).sum())
    return Failure(f"{bad} of the heatmap's {heatmap.numel()} values are infinite or not a number")


def _post_processed(post: Post, maps: Mapping[int, Tensor | Failure]) -> dict[int, Tensor | Failure]:
    good = {at: found for at, found in maps.items() if isinstance(found, Tensor)}
    return {**maps, **_each(lambda alive: list(post(torch.stack([good[at] for at in alive]))), good)}


Value = tuple[float, tuple[float, ...] | None] | Failure
"""A value and perhaps its curve, or why there is none."""


def _measured(
    setup: Setup, measure: Measure, batch: _Batch, maps: Mapping[Key, Maps], seeds: Mapping[str, int]
) -> dict[tuple[Key, int], dict[str, Value] | Failure]:
    """Compute a metric for each map there is: by map and position."""
    found: dict[tuple[Key, int], dict[str, Value] | Failure] = {}
    wanted = [key for key in maps if setup.plan.measures(*key, measure.protocol)]

    def compute(keys: Sequence[Key], alive: Sequence[int]) -> list[list[dict[str, Value]]]:
        part = batch.take(alive)
        stack = torch.stack([torch.stack([_tensor(maps[key][at]) for at in alive]) for key in keys])
        context = {
            "label": part.label,
            "inside": part.inside,
            "preprocess": setup.preprocess,
            "explainer": setup.explainers[keys[0][0]],
            "post": setup.post_processing[keys[0][1]],
        }
        heatmap = stack if measure.stacks else stack[0]
        with _seeded(seeds[keys[0][0]]):
            scores = measure.metric(setup.model, part.x, heatmap, part.target, **accepted(measure.metric, context))
        return _table(scores, measure.names, len(keys), len(alive))

    def left(key: Key, at: int) -> bool:
        return (key, at) not in found and isinstance(maps[key][at], Tensor)

    at_once = max(1, _TOGETHER // batch.x[:, 0].numel())
    together = [wanted[at : at + at_once] for at in range(0, len(wanted), at_once)] if measure.stacks else []
    for keys in [*together, *([key] for key in wanted)]:
        keys = [key for key in keys if any(left(key, at) for at in batch.positions)]
        alive = [at for at in batch.positions if all(left(key, at) for key in keys)] if keys else []
        for at, values in _each(partial(compute, keys), alive).items():
            for number, key in enumerate(keys):
                if len(keys) == 1 or not isinstance(values, Failure):
                    found[key, at] = values if isinstance(values, Failure) else values[number]
    return found


def _tensor(found: Tensor | Failure) -> Tensor:
    assert isinstance(found, Tensor)
    return found


def _table(scores: Mapping[str, Tensor], names: Sequence[str], maps: int, samples: int) -> list[list[dict[str, Value]]]:
    """From tensors by name to values by sample and post-processing."""
    columns = {name: scores[name].double().reshape(maps, samples).tolist() for name in names}
    curves = {
        name: scores[f"{name}.curve"].reshape(maps, samples, -1).tolist() for name in names if f"{name}.curve" in scores
    }

    def value(name: str, post: int, at: int) -> Value:
        found = columns[name][post][at]
        if found - found != 0:
            return Failure(f"the metric gave {found}")
        return found, tuple(curves[name][post][at]) if name in curves else None

    return [[{name: value(name, post, at) for name in names} for post in range(maps)] for at in range(samples)]


def accepted(call: Callable[..., Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `context` the callable takes: a metric names what it needs."""
    parameters = inspect.signature(call).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return dict(context)
    return {name: value for name, value in context.items() if name in parameters}


def _as_rows(
    samples: Sequence[Sample],
    batch: _Batch | None,
    specs: tuple[str, str],
    measure: Measure,
    outcome: Mapping[int, Any],
) -> Iterator[Row]:
    explained = dict(zip(batch.positions, batch.target.tolist(), strict=True)) if batch else {}
    for at, sample in enumerate(samples):
        for name in measure.names:
            found = outcome[at] if isinstance(outcome[at], Failure) else outcome[at][name]
            keys = (*specs, name + measure.options, measure.protocol, measure.ties)
            if isinstance(found, Failure):
                yield Row(sample.id, sample.label, explained.get(at), *keys, value=None, error=found.reason)
            else:
                yield Row(sample.id, sample.label, explained.get(at), *keys, value=found[0], curve=found[1])


def _each(compute: Callable[[Sequence[int]], Sequence[T]], positions: Iterator[int] | Any) -> dict[int, T | Failure]:
    """Compute for all positions at once; if that raises, for each alone."""
    alive = list(positions)
    if not alive:
        return {}
    try:
        return dict(zip(alive, compute(alive), strict=True))
    except (MissingDependencyError, torch.OutOfMemoryError):
        raise  # says something about this machine, and nothing about the sample
    except Exception as error:
        if len(alive) > 1:
            return {at: found for one in alive for at, found in _each(compute, [one]).items()}
        return {alive[0]: Failure(describe(error))}


def describe(error: Exception) -> str:
    """Return an error as one line; its kind too, if it is none of ours."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, RelpropError) else f"{type(error).__name__}: {text}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a while, for explainers that draw from them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """Make equal inputs give equal bits: a fixed number of threads, and cuDNN's deterministic algorithms."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries; what matters to a row is in the row
            yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
