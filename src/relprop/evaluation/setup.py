"""From a plan to all that its computation needs: model, samples, explainers, post-processing, metrics."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from relprop.data import Dataset, Sample, balanced, open_dataset
from relprop.errors import UsageError, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from relprop.evaluation.plan import ModelSpec, Plan
    from relprop.explainer import Explainer, Post
    from relprop.images import Preprocess
    from relprop.metrics import InsertionDeletion, Protocol
    from relprop.models import LoadedModel


@dataclass(frozen=True)
class Measure:
    """A metric under one protocol."""

    # called as `metric(model, x, heatmap, target, ...)`; returns one value per sample under each name, and may return a
    # curve (N, K) under "NAME.curve"
    metric: Callable[..., Mapping[str, Tensor]]
    names: tuple[str, ...]  # of its values
    options: str = ""  # of its spec, e.g. ":fill=blur"; they follow the names in the rows
    protocol: str = ""  # spec of the masking protocol; "" if it follows none
    ties: str = ""  # how that orders pixels of one value; "" likewise
    # whether it takes several heatmaps of the same inputs, (M, N, H, W), and shares work among them
    stacks: bool = False


@dataclass(frozen=True)
class Samples:
    """The samples of a run, and what the model sees of each of them."""

    chosen: Sequence[Sample]  # those of the run, in order
    tensor: Callable[[Sample], Tensor]  # input of a sample, (C, H, W)
    # where its object is, (H, W), bool; None where the data set does not say
    inside: Callable[[Sample], Tensor] | None = None
    left_out: int = 0  # how many samples of the data set weights of `lrp-cuts` were chosen on, and so are not measured


@dataclass(frozen=True)
class Setup:
    """All that a worker loads once."""

    plan: Plan
    model: Any
    samples: Samples
    explainers: Mapping[str, Explainer]
    post_processing: Mapping[str, Post]
    measures: Sequence[Measure]
    device: str = "cpu"
    preprocess: Any = None

    @property
    def chunks(self) -> int:
        """How many chunks the samples make."""
        return -(-len(self.samples.chosen) // self.plan.batch)


@dataclass(frozen=True)
class Seen:
    """What the model sees of a data set's samples."""

    dataset: Dataset
    preprocess: Preprocess

    def tensor(self, sample: Sample) -> Tensor:
        """Return the model's input, (C, H, W)."""
        return self.preprocess(self.dataset.load(sample))

    def inside(self, sample: Sample) -> Tensor:
        """Return which pixels of the input lie in a box of the sample, (H, W), bool.

        The boxes are drawn at the picture's size and go through the picture's own resize and crop.
        """
        from PIL import Image, ImageDraw

        drawn = Image.new("L", self.dataset.load(sample).size)
        for left, top, width, height in sample.boxes:
            corners = (round(left), round(top), round(left + width) - 1, round(top + height) - 1)
            ImageDraw.Draw(drawn).rectangle(corners, fill=255)
        seen = self.preprocess.crop(drawn.convert("RGB")).convert("L")
        return torch.frombuffer(bytearray(seen.tobytes()), dtype=torch.uint8).reshape(seen.height, seen.width) >= 128


def keep_freed_memory() -> None:
    """Ask the C library to keep large blocks that are freed, instead of handing them back to the system.

    glibc hands them back at once and gets them anew page by page: of a run on CIFAR-10 that was 40 % of the time.
    Other libraries than glibc are left alone.
    """
    no_mapped_blocks, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(no_mapped_blocks, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def load(spec: ModelSpec, device: str) -> LoadedModel:
    """Load the model of a plan."""
    from relprop.models import load_model

    return load_model(**asdict(spec), device=device)


def set_up(plan: Plan, device: str | None = None) -> Setup:
    """Load all that a plan names; samples that an explainer was chosen on are left out, for all explainers.

    Args:
        plan: what to evaluate.
        device: the one to use, of the plan's kind; e.g. "cuda:1".

    Raises:
        UsageError: anything in the plan that cannot be used.
    """
    keep_freed_memory()
    dataset = open_dataset(plan.data)  # before the model: it is quicker to find missing
    explainers = explainers_of(plan)
    chosen, left_out = choose(dataset, plan, explainers)
    loaded = load(plan.model, device or plan.device)
    samples = samples_of(dataset, chosen, left_out, loaded.preprocess)
    return assemble(plan, loaded.model, samples, explainers, device, loaded.preprocess)


def explainers_of(plan: Plan, custom: Mapping[str, Explainer] | None = None) -> dict[str, Explainer]:
    """Build the plan's explainers by spec; `custom` ones are there already."""
    from relprop.explainers import EXPLAINERS

    there = custom or {}
    return {spec: there[spec] if spec in there else EXPLAINERS.build(spec) for spec in plan.explainers}


def choose(dataset: Dataset, plan: Plan, explainers: Mapping[str, Explainer]) -> tuple[tuple[Sample, ...], int]:
    """Choose the plan's samples among those that none of its explainers was chosen on; and count the latter.

    Raises:
        UsageError: none is left.
    """
    from relprop.explainers.cuts import chosen_on

    used = chosen_on(explainers.values(), dataset.samples)
    fresh = [sample for sample in dataset.samples if sample.id not in used]
    if not fresh:
        raise UsageError(
            f"layer weights of lrp-cuts were chosen on every picture of {dataset.name}; what was chosen on a picture "
            "looks better there than it is: evaluate it on others"
        )
    wanted = min(plan.samples, len(fresh)) if used and plan.samples else plan.samples
    return balanced(fresh, wanted, plan.seed), len(used)


def assemble(
    plan: Plan,
    model: Any,
    samples: Samples,
    explainers: Mapping[str, Explainer],
    device: str | None = None,
    preprocess: Preprocess | None = None,
) -> Setup:
    """Build what else the plan's specs name, around a model, its inputs and explainers."""
    from relprop.explainers import POST

    return Setup(
        plan,
        model,
        samples,
        explainers,
        post_processing={spec: POST.build(spec) for spec in plan.post},
        measures=measures(plan, samples, preprocess),
        device=device or plan.device,
        preprocess=preprocess,
    )


def samples_of(dataset: Dataset, chosen: Sequence[Sample], left_out: int, preprocess: Preprocess) -> Samples:
    """Say how samples of a data set become inputs."""
    seen = Seen(dataset, preprocess)
    boxes = bool(chosen) and all(sample.boxes for sample in chosen)
    return Samples(chosen, seen.tensor, seen.inside if boxes else None, left_out)


def measures(plan: Plan, samples: Samples, preprocess: Preprocess | None) -> list[Measure]:
    """Build the metrics: those that follow a masking protocol once under each of the plan's.

    Raises:
        UsageError: a metric that needs boxes where there are none, or a fill that needs to know what black is.
    """
    from relprop.metrics import METRICS, InsertionDeletion

    found = []
    for spec in plan.metrics:
        metric, (_, colon, options) = METRICS.build(spec), spec.partition(":")
        metric = replace(cast("Any", metric), amp=True) if plan.amp and hasattr(metric, "amp") else metric
        if metric.needs_object and samples.inside is None:
            raise UsageError(f"{spec} needs to know where the objects are, and {plan.data} has no boxes; cub has")
        if not isinstance(metric, InsertionDeletion):
            found.append(Measure(metric, metric.rows, colon + options))
            continue
        for name, protocol in protocols(plan):
            under = replace(metric, protocol=protocol)
            fill = under.settings().fill
            if preprocess is None and fill in ("black", "noise"):
                raise UsageError(
                    f"protocol {name!r} fills with {fill}, a colour, and nobody said how colours are normalised; give "
                    f"preprocess=relprop.images.Preprocess(mean=..., std=...), or {name}:fill=blur"
                )
            call = partial(_with_curves, under) if plan.curves else under
            found.append(Measure(call, metric.rows, colon + options, name, under.settings().ties, stacks=True))
    return found


def protocols(plan: Plan) -> list[tuple[str, Protocol]]:
    """Build the masking protocols, with the plan's seed and step."""
    from relprop.metrics import PROTOCOLS

    made = []
    for spec in plan.protocols:
        changes: dict[str, Any] = {} if "seed=" in spec else {"seed": plan.seed}
        changes |= {} if plan.step is None else {"step": plan.step}
        made.append((spec, replace(PROTOCOLS.build(spec), **changes)))
    return made


def _with_curves(
    metric: InsertionDeletion, model: Any, x: Tensor, heatmap: Tensor, target: Tensor, **given: Any
) -> dict[str, Tensor]:
    """Measure as the metric does, and return the curves too."""
    from relprop.metrics import Inputs

    found = metric.curves(Inputs.read(model, x, heatmap, target, **given))
    return {**found.values(), "insertion.curve": found.insertion, "deletion.curve": found.deletion}


def identity(setup: Setup) -> dict[str, Any]:
    """Return digests of all that decides the rows and is not in the plan."""
    return {
        "samples": digest(f"{sample.id} {sample.label}".encode() for sample in setup.samples.chosen),
        "weights": weights_digest(setup.model),
        "versions": {name: version(name) for name in ("relprop", "torch", "torchvision", "pillow")},
    }


def weights_digest(model: Any) -> str:
    """Return what names the weights and buffers of a model or an exported program."""
    state = model.state_dict
    weights = (state() if callable(state) else state).items()
    return digest(part for name, value in sorted(weights) for part in (name.encode(), _bytes(value)))


def digest(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits that name a sequence of byte strings."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big"))
        total.update(part)
    return total.hexdigest()[:16]


def version(name: str) -> str:
    """Return the version of an installed distribution, "absent" if it is not installed."""
    return version_of(name) or "absent"


def _bytes(value: object) -> bytes:
    if not isinstance(value, Tensor):
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
