"""What an evaluation runs, as a value: frozen, JSON-able, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from relprop.errors import RunError, UsageError

CONTROLS = ("constant", "random")
"""Explainers that look at nothing: what they score is what the metric gives away."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model, in the words of `relprop.models.load_model`."""

    name: str
    arch: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    trust: bool = False
    multi_label: bool = False


@dataclass(frozen=True)
class Plan:
    """All that decides the rows of an evaluation, bit by bit. Two runs of equal plans on like machines are equal.

    Attributes:
        model: which model.
        data: which data set (`relprop.data.open_dataset`).
        explainers: specs, in the order of the table.
        post: specs of post-processing steps, each applied to each explainer.
        metrics: specs.
        protocols: specs of masking protocols, for the metrics that mask.
        step: pixels masked a step, below 1 a fraction of them; None leaves it to the protocol.
        samples: how many, equally many of each class; None takes all.
        seed: of the choice of samples, of random ties, and of whatever draws from torch's generators.
        target: explain the class that the model predicts, or the sample's label.
        batch: samples computed together, and stored together. It is part of the plan, since the size of a batch
            decides the last bits of floating-point sums.
        threads: of each worker, for the same reason. More workers make a run faster, and leave its rows as they are.
        device: "cpu", "cuda" or "mps".
        curves: keep the curves behind the scores.
        only: which maps are measured under which protocol, each "PROTOCOL EXPLAINER POST" with spaces; empty for all.
            Metrics that follow no protocol measure every map that is named.
        amp: run the model in bfloat16 where torch's autocast allows it, for the metrics that mask; explainers do not.
    """

    model: ModelSpec
    data: str
    explainers: tuple[str, ...]
    post: tuple[str, ...] = ("none",)
    metrics: tuple[str, ...] = ("insertion-deletion",)
    protocols: tuple[str, ...] = ("fair",)
    step: float | None = None
    samples: int | None = None
    seed: int = 0
    target: Literal["predicted", "label"] = "predicted"
    batch: int = 16
    threads: int = 1
    device: str = "cpu"
    curves: bool = False
    amp: bool = False
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("explainers", "post", "metrics", "protocols"):
            given = getattr(self, name)
            if not given:
                raise UsageError(f"an evaluation needs at least one of {name}; none was given")
            if twice := sorted({one for one in given if given.count(one) > 1}):
                raise UsageError(f"{name} were given twice: {', '.join(twice)}; name each once")
        for name in ("batch", "threads", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.target not in ("predicted", "label"):
            raise UsageError(f"target must be predicted or label, not {self.target!r}")

    def measures(self, explainer: str, post: str, protocol: str) -> bool:
        """Whether a map is measured under a protocol ("" for metrics that follow none)."""
        if not self.only:
            return True
        return any(f"{name} {explainer} {post}" in self.only for name in ([protocol] if protocol else self.protocols))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain if self.only else {key: value for key, value in plain.items() if key != "only"}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Plan:
        """Make the plan that `to_json` wrote.

        Raises:
            RunError: fields that this version does not know, or values of another kind than theirs.
        """
        no_plan = "this is no plan that this version of relprop can read"
        try:
            model = ModelSpec(**_typed(ModelSpec, _tuples(plain["model"])))
            return cls(**_typed(cls, {**_tuples(plain), "model": model}))
        except (TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{no_plan}: {error}") from None

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name the plan."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def differences(self, other: Plan) -> list[str]:
        """Say in which fields another plan differs, e.g. "seed: 0, now 1"."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [f"{name}: {_short(mine)}, now {_short(theirs)}" for name, mine, theirs in pairs if mine != theirs]


def with_controls(explainers: Sequence[str]) -> tuple[str, ...]:
    """Append the controls that are not there yet."""
    names = {spec.split(":")[0] for spec in explainers}
    return (*explainers, *(control for control in CONTROLS if control not in names))


def short_model(name: str) -> str:
    """A model's name for captions: "resnet20", also of "/far/away/resnet20.pt"; the manifest keeps the way to it."""
    path = Path(name)
    if path.suffix not in (".pt", ".pth", ".th", ".safetensors", ".pt2", ".ckpt", ".bin"):
        return name
    return f"{path.parent.name}/{path.stem}" if path.stem in ("model", "best", "last") else path.stem


def short_data(spec: str) -> str:
    """A data set for captions, without the way to it: "parquet:test.parquet"."""
    kind, colon, rest = spec.partition(":")
    root, *options = rest.split(":")
    return ":".join([kind, Path(root).name, *options]) if colon else spec


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}


def _typed(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values if each is of its field's kind."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise TypeError(f"there is no field {name!r}; fields are {', '.join(hints)}")
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} cannot be {value!r}")
    return values


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a kind: a plain type, a Literal, a union of them, or a tuple of many of one."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return any(value == choice for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(part, get_args(hint)[0]) for part in value)
    return type(value) in ((int, float) if hint is float else (hint,))


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, ModelSpec):
        return " ".join(f"{key}={part}" for key, part in asdict(value).items() if part not in (None, False))
    return str(value)
