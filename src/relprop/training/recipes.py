"""Recipes: every setting that decides what a training run learns, as frozen data.

RECIPES.build("cub")              ResNet-50 on CUB-200-2011, with the settings of the authors' configuration
RECIPES.build("cub-released")     the same, as the authors' script runs
RECIPES.build("cifar10")          ResNet-20 with projection shortcuts, the recipe of `resnet20-cifar10`
RECIPES.build("folder:pictures")  fine-tune ResNet-50 on a folder with one subfolder a class
override(recipe, "epochs=5", "lr=0.01")
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from relprop.errors import UsageError
from relprop.images import IMAGENET_MEAN, IMAGENET_STD
from relprop.models.architectures import CIFAR_CLASSES
from relprop.registry import Registry, convert
from relprop.training.schedules import SCHEDULES

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Recipe:
    """What is trained, from what, and how. The data, the seed and the machine are given beside it."""

    name: str  # of the recipe
    data: str = ""  # default data set, as a spec for `relprop.data.open_dataset`; "" where the caller has to say
    test: str = ""  # data set measured once, after training; "" for none
    # a name that `relprop.models` can build: torchvision's, timm's, "cifar-resnet20-b" (projection shortcuts)
    arch: str = "resnet50"
    # "random", "pretrained" (published ImageNet weights), or a checkpoint; the last layer is new
    init: str = "pretrained"
    classes: tuple[str, ...] = ()  # their names, where the data do not say
    size: int = 224  # side of the network's square input, in pixels
    resize: int = 256  # shorter side to which a picture is resized before the centre crop that is evaluated
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of each colour channel, in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # of each colour channel
    # "crop": random resized crop and flip of each file, decoded every time; "resize-crop": the same of the file resized
    # to `resize` before, as released; "shift": pictures decoded once, then shifted by up to `pad` pixels with reflected
    # borders, and flipped, a batch at a time
    augment: Literal["crop", "resize-crop", "shift"] = "crop"
    # the held out pictures are seen "centred", as in evaluation, or "augmented" at random like the training pictures,
    # as released
    validate: Literal["centred", "augmented"] = "centred"
    pad: int = 4  # largest shift, in pixels
    # side of the grey square put at a random position (DeVries and Taylor 2017), 0 for none; with "shift"
    cutout: int = 0
    batch: int = 32  # pictures per optimizer step, over all devices and accumulation steps
    accumulate: int = 1  # parts into which a batch is split when it does not fit the memory
    lr: float = 1e-3  # base learning rate of SGD
    floor: float = 1e-6  # the learning rate never falls below it
    schedule: str = "plateau:factor=0.333:patience=1"  # spec of a member of `SCHEDULES`
    momentum: float = 0.9  # of SGD
    nesterov: bool = False  # Nesterov's form of it
    weight_decay: float = 1e-4  # L2 penalty on all parameters
    label_smoothing: float = 0.0  # of the cross entropy
    # decay per step of the moving average of the weights that is evaluated and kept, less in the first steps; 0 for
    # none
    ema: float = 0.0
    epochs: int = 300  # at most
    patience: int | None = 6  # stop after so many epochs without a better validation loss; None for never
    # which epoch's weights are the result: the "best" on validation, or the "last"
    keep: Literal["best", "last"] = "best"
    holdout: float = 0.1  # share of the training pictures that is held out for validation
    # "class": that share of every class; "random": of all together, as released
    holdout_by: Literal["class", "random"] = "class"
    seeds: tuple[int, ...] = (0,)  # one run each
    precision: Literal["32-true", "bf16-mixed"] = "32-true"  # "32-true" or "bf16-mixed" (automatic mixed precision)
    channels_last: bool = True  # memory layout of pictures and weights; faster on most processors
    store: Literal["float32", "float16"] = "float32"  # precision of the resulting weights file

    def __post_init__(self) -> None:
        problems = [text for bad, text in _limits(self) if bad]
        if problems:
            raise UsageError(f"recipe {self.name!r}: " + "; ".join(problems))
        SCHEDULES.build(self.schedule)

    def __str__(self) -> str:
        """One setting a line."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        wide = max(map(len, settings))
        return "\n".join(f"{name:<{wide}}  {_show(value)}".rstrip() for name, value in settings.items())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def _limits(r: Recipe) -> list[tuple[bool, str]]:
    """Return what must not be, and how to say so."""
    return [
        (r.size < 1 or r.resize < r.size, f"resize ({r.resize}) must be at least size ({r.size}), and size at least 1"),
        (r.epochs < 1, f"epochs must be at least 1, not {r.epochs}"),
        (r.accumulate < 1, f"accumulate must be at least 1, not {r.accumulate}"),
        (
            r.batch < 1 or r.batch % max(r.accumulate, 1) != 0,
            f"batch ({r.batch}) must be a multiple of accumulate ({r.accumulate})",
        ),
        (not 0 <= r.holdout < 1, f"holdout must be a share from 0 up to 1, not {r.holdout}"),
        (not 0 <= r.ema < 1, f"ema must be a decay from 0 up to 1, not {r.ema}"),
        (not 0 <= r.label_smoothing < 1, f"label_smoothing must be from 0 up to 1, not {r.label_smoothing}"),
        (r.lr <= 0 or r.floor < 0, f"lr ({r.lr}) must be positive and floor ({r.floor}) not negative"),
        (not 0 <= r.momentum < 1, f"momentum must be from 0 up to 1, not {r.momentum}"),
        (r.nesterov and not r.momentum, "nesterov needs a momentum"),
        (r.weight_decay < 0, f"weight_decay must not be negative, as {r.weight_decay} is"),
        (not 0 <= r.pad < r.size, f"pad must be from 0 up to size ({r.size}), not {r.pad}"),
        (r.cutout < 0, f"cutout must not be negative, as {r.cutout} is"),
        (r.patience is not None and r.patience < 1, f"patience must be at least 1, or none, not {r.patience}"),
        (
            not r.holdout
            and (r.patience is not None or r.keep == "best" or r.schedule.startswith(("plateau", "released"))),
            "without holdout there is no validation loss: set patience=none, keep=last, and no plateau schedule",
        ),
        (not r.seeds, "seeds must name at least one"),
    ]


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def override(recipe: Recipe, *settings: str) -> Recipe:
    """Change single settings, each written "name=value" as `str(recipe)` shows them; several values with commas.

    Raises:
        UsageError: no such setting, or a value of the wrong kind or out of range.
    """
    hints = {name: hint for name, hint in get_type_hints(Recipe).items() if name != "name"}
    changed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or name not in hints:
            raise UsageError(f"cannot set {setting!r}: write NAME=VALUE, with a name among {', '.join(hints)}")
        changed[name] = _read(name, text, hints[name])
    return dataclasses.replace(recipe, **changed)


def _read(name: str, text: str, hint: Any) -> Any:
    """Read `text` as a field of type `hint`: a value, or a tuple of values with commas."""
    if get_origin(hint) is not tuple:
        return convert("setting", name, text, hint)
    kinds = get_args(hint)
    parts = [] if text.lower() in ("", "none") else [part.strip() for part in text.split(",")]
    if Ellipsis not in kinds and len(parts) != len(kinds):
        raise UsageError(f"setting: {name} takes {len(kinds)} values with commas, not {text!r}")
    return tuple(convert("setting", name, part, kinds[0]) for part in parts)


RECIPES: Registry[Recipe] = Registry("recipe")


@RECIPES.register("cub")
def cub() -> Recipe:
    """ResNet-50 from ImageNet weights on CUB-200-2011: the settings of the released configuration, five seeds.

    The release says three things of the learning rate. Its configuration names a plateau (factor 0.333, patience 1),
    which is the default here, since it is what the authors state. The text of its script builds a step every 30 epochs
    (schedule=step:every=30:factor=0.1). What the script does is neither: the rate stays at 1e-3 (schedule=released).
    `cub-released` is the recipe with that and the script's other habits. The momentum is the release's default, 0.9.
    """
    return Recipe(name="cub", seeds=(40, 41, 42, 43, 44))


@RECIPES.register("cub-released")
def cub_released() -> Recipe:
    """As `cub`, with what the released script does beside its configuration.

    A constant learning rate (`schedule=released`); files resized before the random crop; a validation split drawn from
    all pictures together; and training augmentation in validation, since the script sets the other transform on a
    subset that does not use it. So the validation loss that stops the training is a noisy one.
    """
    return dataclasses.replace(
        cub(),
        name="cub-released",
        schedule="released",
        augment="resize-crop",
        holdout_by="random",
        validate="augmented",
    )


@RECIPES.register("cifar10")
def cifar10() -> Recipe:
    """ResNet-20 with projection shortcuts from scratch on CIFAR-10: the recipe of the model `resnet20-cifar10`."""
    return Recipe(
        name="cifar10",
        arch="cifar-resnet20-b",
        init="random",
        classes=CIFAR_CLASSES,
        size=32,
        resize=32,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        augment="shift",
        batch=256,
        lr=0.4,
        floor=0.0,
        schedule="one-cycle:warmup=0.2",
        nesterov=True,
        weight_decay=5e-4,
        ema=0.995,
        epochs=30,
        patience=None,
        keep="last",
        holdout=0.02,
        precision="bf16-mixed",
        store="float16",
    )


@RECIPES.register("folder")
def folder(root: str) -> Recipe:
    """Fine-tune ResNet-50 on pictures in a folder with one subfolder a class, with the settings of `cub`."""
    return Recipe(name="folder", data=f"folder:{root}")
