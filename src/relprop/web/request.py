"""What a client may ask for, and how much.

Every value is one of a fixed set, a small number, or an id that the server made.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from relprop.core.composites.presets import COMPOSITES
from relprop.errors import InputError, UsageError
from relprop.sessions import Session

BASELINES = ("grad-cam", "guided-backprop", "input-x-gradient", "integrated-gradients")
"""Methods that can be compared with relevance. Score-CAM takes minutes without a GPU, so
that the command line alone offers it."""
BESIDE = "lrp-cuts"
"""The method whose map always stands beside that of the rules."""
SPLITS = ("ratio", "symmetric")
LEVELS = range(2, 33)
SMOOTHINGS = (0, 1, 2, 4)
"""Widths in pixels of the Gaussian that the figure may be drawn after."""


class GoneError(InputError):
    """An id that is not known, or no longer."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the app; a client that reaches one gets a message that names it."""

    file_bytes: int = 12_000_000  # size of an uploaded file
    pixels: int = 25_000_000  # of an uploaded image, once decoded
    images: int = 24  # uploads that are kept; the oldest are deleted first
    jobs: int = 32  # results that are kept; likewise
    queue: int = 16  # explanations that wait. One is computed at a time
    uploads: int = 16  # files received at the same time
    decoders: int = 2  # files decoded at the same time
    receive_seconds: int = 10  # in which the header of a request has to arrive, and then its body
    unasked_seconds: float = 10.0  # after which a job that no client asks for is cancelled


@dataclass(frozen=True)
class ExplanationRequest:
    """One explanation that a client asks for."""

    image: str  # "sample:NAME", or the id of an upload
    model: str  # name of one of the models that are served
    target: int | None  # index of the class; None for the predicted one
    composite: str  # spec of the rules, split and identity included
    levels: int | None  # of Heat Quantization; None for a continuous map
    baselines: tuple[str, ...]  # methods to compare with it
    against: int | None = None  # index of the class that it is compared with; None to explain the class alone
    smooth: int = 0  # width in pixels of the Gaussian that the figure is drawn after; 0 for none

    @property
    def methods(self) -> tuple[str, ...]:
        """All that is computed besides relevance under the rules that were chosen."""
        return (BESIDE, *self.baselines)


def read_request(plain: Any, setups: Mapping[str, Session]) -> ExplanationRequest:
    """Check the JSON of a client, value by value.

    Raises:
        UsageError: a field or value that is not accepted.
    """
    if not isinstance(plain, dict):
        raise UsageError("a request is one JSON object")
    known = {"image", "model", "target", "composite", "split", "identity", "levels", "baselines", "against", "smooth"}
    if strange := sorted(str(key)[:40] for key in plain if key not in known):
        raise UsageError(f"unknown fields: {', '.join(strange)}; known are {', '.join(sorted(known))}")
    image, baselines = plain.get("image"), plain.get("baselines", [])
    if not isinstance(image, str):
        raise UsageError("choose an image, or upload one")
    model = _one_of("model", plain.get("model", next(iter(setups))), setups)
    composite = _composite(plain.get("composite", "paper"), plain.get("split"), plain.get("identity"))
    if not isinstance(baselines, list):
        raise UsageError("baselines must be a list of names")
    chosen = tuple(dict.fromkeys(_one_of("baselines", name, BASELINES) for name in baselines))
    levels = _number("levels", plain.get("levels"), LEVELS)
    classes = setups[model].loaded.classes
    indices = range(len(classes) if classes else 1_000_000)
    target, against = (_number(field, plain.get(field), indices) for field in ("target", "against"))
    if against is not None and against == target:
        raise UsageError("a contrast needs two classes; choose another class to compare with")
    smooth = plain.get("smooth", 0)
    if isinstance(smooth, bool) or smooth not in SMOOTHINGS:
        raise UsageError(f"smooth must be one of {', '.join(map(str, SMOOTHINGS))}")
    return ExplanationRequest(image, model, target, composite, levels, chosen, against, int(smooth))


def choices(setups: Mapping[str, Session], images: Collection[str]) -> dict[str, Any]:
    """Return what a request may hold, for the page."""
    return {
        "models": [
            {"name": name, "about": setup.loaded.name, "classes": list(setup.loaded.classes or ())}
            for name, setup in setups.items()
        ],
        "images": list(images),
        "composites": [
            {"name": name, "about": COMPOSITES.summary(name), "splits": "split" in _parameters(name)}
            for name in COMPOSITES.names()
        ],
        "splits": list(SPLITS),
        "baselines": list(BASELINES),
        "smoothings": list(SMOOTHINGS),
        "levels": [LEVELS.start, LEVELS.stop - 1],
    }


def _composite(name: Any, split: Any, identity: Any) -> str:
    """Put a spec together, without what is the default of the composite, and build it once to see that it is valid."""
    spec = _one_of("composite", name, COMPOSITES.names())
    if split is not None:
        _one_of("split", split, SPLITS)
    if identity is not None and not isinstance(identity, bool):
        raise UsageError("identity must be true or false")
    for option, value in (("split", split), ("identity", identity)):
        parameter = _parameters(spec.split(":")[0]).get(option)
        if value is not None and (parameter is None or parameter.default != value):
            spec += f":{option}={str(value).lower()}"
    COMPOSITES.build(spec)
    return spec


def _parameters(composite: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(COMPOSITES.get(composite)).parameters


def _one_of(field: str, value: Any, known: Collection[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"{field} must be one of {', '.join(known)}")
    return value


def _number(field: str, value: Any, known: range) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in known:
        raise UsageError(f"{field} must be a whole number from {known.start} to {known.stop - 1}")
    return value
