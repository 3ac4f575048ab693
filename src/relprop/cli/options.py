"""Options that several commands share, and what they mean: which model, which rules, which images."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from relprop.cli import console
from relprop.errors import TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relprop.core.composites.composite import Composite as Rules
    from relprop.evaluation import ModelSpec
    from relprop.models import LoadedModel

_model = partial(typer.Option, rich_help_panel="Model")
_rules = partial(typer.Option, rich_help_panel="Rules")
scores = partial(typer.Option, rich_help_panel="How scores are computed")

Images = Annotated[
    list[Path] | None,
    typer.Argument(metavar="IMAGES...", help="Images or folders of images; none for the bundled photograph."),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into the folders of folders too.")]
Model = Annotated[
    str | None,
    _model(
        "--model",
        "-m",
        help="torchvision or timm name, checkpoint, .pt2 file, package.module:factory, or random:NAME (untrained).",
        show_default="efficientnet-lite0, which needs no network",
    ),
]
Device = Annotated[str, _model(help="cpu, cuda, cuda:1, mps; auto takes the GPU if there is one.")]
Classes = Annotated[
    Path | None,
    _model(
        "--classes",
        help="Names of the classes: a file with one a line, a JSON list, or a folder with a subfolder for each.",
        show_default="those that the model brings",
    ),
]
Composite = Annotated[
    str,
    _rules(
        "--composite",
        "-c",
        help="Choice of rules: paper, released, original, epsilon, gamma, ...; options as epsilon:1e-6.",
    ),
]
Start = Annotated[Literal["probability", "logit"], _rules(help="What relevance starts from at the explained class.")]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Class to explain: index or name, several with commas; once, or once for each image.",
        show_default="predicted",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images computed at once.")]
Step = Annotated[
    float | None,
    scores(
        help="Pixels masked a step; below 1, a fraction of them.",
        show_default="500 at 224 x 224, in proportion elsewhere",
    ),
]
Amp = Annotated[bool, scores("--amp", help="Score masked pictures in bfloat16.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else.")]


@dataclass(frozen=True)
class Network:
    """How the model that `--model` names is built, fed and run."""

    arch: Annotated[
        str | None, _model(help="Architecture of a checkpoint: a model name or package.module:factory.")
    ] = None
    size: Annotated[int | None, _model(min=1, help="Side of the network's input in pixels.")] = None
    mean: Annotated[str | None, _model(help="Channel means in [0, 1], e.g. 0.485,0.456,0.406.", metavar="R,G,B")] = None
    std: Annotated[
        str | None, _model(help="Channel deviations in [0, 1], e.g. 0.229,0.224,0.225.", metavar="R,G,B")
    ] = None
    device: Device = "auto"
    trust: Annotated[bool, _model("--trust", help="Run code that a .pt2 file holds or a file's metadata name.")] = False
    multi_label: Annotated[
        bool,
        _model(
            "--multi-label",
            help="Each class is a yes or no of its own, its probability a sigmoid; known where the model ends in one.",
        ),
    ] = False

    @property
    def described(self) -> bool:
        """Whether any option says how one certain model is built or fed."""
        return self.multi_label or any(given is not None for given in (self.arch, self.size, self.mean, self.std))

    def chosen_device(self) -> str:
        """See `choose_device`."""
        return choose_device(self.device)

    def load(self, model: str | None, classes: Path | None = None) -> LoadedModel:
        """Load a model by its name; without one the bundled one."""
        mean, std, device = channels("--mean", self.mean), channels("--std", self.std), self.chosen_device()
        with console.waiting("loading the model"):
            from relprop.models import DEFAULT_MODEL, load_model

            given: Any = {"arch": self.arch, "size": self.size, "mean": mean, "std": std, "trust": self.trust}
            given |= {"classes": classes, "device": device, "multi_label": self.multi_label}
            return load_model(model or DEFAULT_MODEL, **given)

    def spec(self, model: str | None) -> ModelSpec:
        """Say which model a plan names, a file by its absolute path; without a name the bundled one."""
        from relprop.evaluation import ModelSpec
        from relprop.models import DEFAULT_MODEL

        name = str(Path(model).absolute()) if model and Path(model).is_file() else model or DEFAULT_MODEL
        mean, std = channels("--mean", self.mean), channels("--std", self.std)
        return ModelSpec(name, self.arch, self.size, mean, std, self.trust, self.multi_label)


@dataclass(frozen=True)
class Joins:
    """How residual joins share relevance; options of the composite."""

    split: Annotated[str | None, _rules(help="How residual joins share: ratio or symmetric.", show_default="ratio")] = (
        None
    )
    identity: Annotated[
        bool | None,
        _rules("--identity/--no-identity", help="Whether identity skips get their share.", show_default="identity"),
    ] = None

    def spec(self, composite: str) -> str:
        """Append the options, where given, to a composite's spec."""
        given = {"split": self.split, "identity": None if self.identity is None else str(self.identity).lower()}
        return composite + "".join(f":{name}={value}" for name, value in given.items() if value is not None)

    def composite(self, spec: str) -> Rules:
        """Build a composite from its spec and these options."""
        from relprop.core.composites.presets import COMPOSITES

        return COMPOSITES.build(self.spec(spec))


@dataclass(frozen=True)
class Workers:
    """Who computes the rows of a plan."""

    workers: Annotated[
        int | None,
        scores(
            min=1,
            help="Processes, or Ray tasks at a time. Rows do not depend on it.",
            show_default="1; with --ray all there is room for",
        ),
    ] = None
    ray: Annotated[
        str | None, scores("--ray", metavar="ADDRESS", help="Run on a Ray cluster: local, auto, or its address.")
    ] = None


def listed(text: str) -> tuple[str, ...]:
    """Read a list with commas; empty parts do not count."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read "0.5" or "0.485,0.456,0.406"."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise UsageError(f"{option} takes one number or three with commas, such as 0.485,0.456,0.406; not {text!r}")
    return values if len(values) == 3 else values * 3


def choose_device(name: str) -> str:
    """Return a device that is there."""
    import torch

    here = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return "cuda" if len(here) > 1 and here[1] == "cuda:0" else "cpu"  # mps lacks float64, which the ledger needs
    if name not in [*here, *(["cuda"] if "cuda:0" in here else [])]:
        raise UsageError(f"there is no device {name!r} here; there is {', '.join(here)}")
    return name


def targets(
    given: list[str] | None, images: int, classes: Sequence[str] | None, outputs: int | None = None
) -> list[tuple[int, ...]] | None:
    """Read `--target`: once for all images or once for each, one class or several with commas; None: the predicted."""
    require_targets(given, images)
    if not given:
        return None
    found = [_classes_of(text, classes, outputs) for text in given]
    return found if len(found) == images else found * images


def require_targets(given: list[str] | None, images: int) -> None:
    """Raise unless `--target` was given never, once, or once for each image."""
    if given and len(given) not in (1, images):
        raise TargetError(f"--target was given {len(given)} times for {images} images; give it once, or once for each")


def contrast(given: str | None, classes: Sequence[str] | None, outputs: int | None = None) -> tuple[int, int] | None:
    """Read `--contrast A,B`: why A rather than B."""
    if given is None:
        return None
    found = _classes_of(given, classes, outputs)
    if len(found) != 2 or found[0] == found[1]:
        raise TargetError(
            f"--contrast takes two classes with a comma, such as 281,285 (why 281 and not 285); not {given!r}"
        )
    return found[0], found[1]


def known_outputs(model: str | None) -> int | None:
    """Number of classes of a model that is known by its name alone, before anything is loaded; else None."""
    from relprop.models.architectures import CIFAR_CLASSES, torchvision_names, torchvision_weights
    from relprop.models.bundled import EFFICIENTNET, EFFICIENTNETS, RESNET20, imagenet_classes

    name = (model or EFFICIENTNET).partition("@")[0]
    if name in EFFICIENTNETS or name == RESNET20:
        return len(CIFAR_CLASSES if name == RESNET20 else imagenet_classes())
    return len(torchvision_weights(name).meta["categories"]) if name in torchvision_names() else None


def require_indices(given: list[str] | None, outputs: int | None) -> None:
    """Refuse an index that no class has, where the number of classes is known; names are looked up once loaded."""
    for part in (part.strip() for text in given or () for part in text.split(",")):
        if part.lstrip("+-").isdigit():
            _within(int(part), outputs)


def _classes_of(text: str, classes: Sequence[str] | None, outputs: int | None) -> tuple[int, ...]:
    """Classes by index or name, with commas between them; a name that holds a comma itself goes first."""
    from relprop.models.classes import class_index

    parts = [text] if classes and text in classes else [part for part in text.split(",") if part.strip()]
    found = tuple(dict.fromkeys(_within(class_index(part, classes), outputs) for part in parts))
    if not found:
        raise TargetError(f"no class is named in {text!r}; give an index or a name")
    return found


def _within(index: int, outputs: int | None) -> int:
    if outputs is not None and not 0 <= index < outputs:
        from relprop.core.targets.target import no_such_class

        raise no_such_class(index, outputs)
    return index


def spread(command: Callable[..., int]) -> Callable[..., int]:
    """Return the command as typer can read it: a parameter that is a dataclass of this module becomes its fields."""
    parameters = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in parameters.items() if is_dataclass(one.annotation)}

    @wraps(command)
    def call(**given: Any) -> int:
        made = {name: kind(**{part: given.pop(part) for part in _fields(kind)}) for name, kind in groups.items()}
        return command(**given, **made)

    flat: dict[str, inspect.Parameter] = {}
    for name, one in parameters.items():
        flat |= _fields(groups[name]) if name in groups else {name: one.replace(kind=one.KEYWORD_ONLY)}
    call.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]
    return call


def _fields(kind: Any) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    found = inspect.signature(kind).parameters.items()
    return {name: one.replace(kind=one.KEYWORD_ONLY, annotation=hints[name]) for name, one in found}
