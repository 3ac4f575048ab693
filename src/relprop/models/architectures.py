"""Networks that can be built by name: torchvision's, timm's, our CIFAR ResNets, and a user's own factory."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torchvision import models as zoo

from relprop.cifar import cifar_resnet
from relprop.errors import MissingDependencyError, ModelError, UsageError, how_to_add, require
from relprop.images import Preprocess

CIFAR_NAMES = tuple(f"cifar-resnet{depth}{form}" for depth in (20, 32, 44, 56, 110) for form in ("", "-b"))
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_PREPROCESS = Preprocess(size=32, resize=32)
CIFAR = re.compile(r"cifar-resnet(\d+)(-b)?")


@dataclass(frozen=True)
class Architecture:
    """A network that can be built."""

    name: str  # as it was asked for
    build: Callable[[], nn.Module]  # makes it, untrained
    preprocess: Callable[[nn.Module], Preprocess]  # how pictures are prepared for it, of the network that was built
    origin: str  # who wrote it, for manifests

    def make(self, seed: int = 0) -> nn.Module:
        """Build it with weights drawn from `seed`; torch's own generator is left where it was.

        Raises:
            ModelError: its builder fails, or returns something that is no network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model = self.build()
            except UsageError:
                raise
            except Exception as error:  # a user's factory may raise anything
                raise ModelError(f"building {self.name} failed with {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise ModelError(f"{self.name} returned a {type(model).__name__}; it has to return a torch.nn.Module")
        return model


def find_architecture(name: str, *, projections: bool = False) -> Architecture:
    """Find the network called `name`.

    Args:
        name: a torchvision name; `timm:NAME`, or a name that timm alone knows; `cifar-resnet20` (any depth 6n + 2),
            with `-b` for projection shortcuts; `package.module:factory`, called without arguments.
        projections: give a CIFAR ResNet projection shortcuts, whatever its name says.

    Raises:
        ModelError: there is none; the message names the nearest.
    """
    if imports(name):
        return _factory(name)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    if match := CIFAR.fullmatch(name):
        return _cifar(name, int(match[1]), "B" if match[2] or projections else "A")
    if name in torchvision_names():
        return _torchvision(name)
    with contextlib.suppress(MissingDependencyError, ModelError):
        return _timm(name)
    raise unknown(name, [*CIFAR_NAMES, *torchvision_names(), *timm_names()])


def imports(name: str) -> bool:
    """Whether to build the network of this name, a module would be imported and called: `package.module:factory`."""
    return ":" in name and not name.startswith("timm:")


def unknown(name: str, known: list[str]) -> ModelError:
    """Say that nothing is called `name`, and what is."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    others = "" if importlib.util.find_spec("timm") else f" (timm is not installed: {how_to_add('timm')})"
    return ModelError(
        f"no model is named {name!r}{hint or '.'} Give a name that torchvision or timm knows{others}, cifar-resnet20, "
        "package.module:factory, or the path of a checkpoint (with its architecture) or .pt2 file"
    )


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers."""
    return list(zoo.list_models(module=zoo))


def timm_names() -> list[str]:
    """Names of timm's models; none where timm is not installed."""
    try:
        return list(require("timm", "timm").list_models())
    except MissingDependencyError:
        return []


def torchvision_weights(name: str, wanted: str | None = None) -> Any:
    """Return a member of the weights enum of a torchvision model; by default the first ImageNet weights published.

    Those, not torchvision's newest, are what the literature explains; `wanted` names others ("IMAGENET1K_V2",
    "DEFAULT").

    Raises:
        ModelError: the model has no weights of that name.
    """
    published = zoo.get_model_weights(name)
    key = wanted or ("IMAGENET1K_V1" if "IMAGENET1K_V1" in published.__members__ else "DEFAULT")
    if key not in published.__members__:
        raise ModelError(f"torchvision has no weights {key!r} for {name}; it has {', '.join(published.__members__)}")
    return published[key]


def _torchvision(name: str) -> Architecture:
    # without it these two warn, or draw weights by scipy for minutes
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    recipe = Preprocess.from_torchvision(torchvision_weights(name).transforms())
    return Architecture(name, lambda: zoo.get_model(name, weights=None, **extra), lambda _: recipe, "torchvision")


def _timm(name: str) -> Architecture:
    timm = require("timm", "timm")
    if not timm.is_model(name):
        raise unknown(name, list(timm.list_models()))
    return Architecture(name, lambda: timm.create_model(name, pretrained=False), timm_preprocess, "timm")


def timm_preprocess(model: nn.Module) -> Preprocess:
    """How pictures are prepared for a model made by timm."""
    data = require("timm.data", "timm")
    return Preprocess.from_timm(data.resolve_model_data_config(model))


def _cifar(name: str, depth: int, shortcut: str) -> Architecture:
    if depth < 8 or (depth - 2) % 6:
        raise ModelError(f"there is no {name}: a CIFAR ResNet has 6n + 2 layers (8, 14, 20, 32, 44, 56, 110, ...)")

    def build() -> nn.Module:
        return cifar_resnet(depth, shortcut=cast("Any", shortcut))

    kind = "zero-padded" if shortcut == "A" else "projection"
    return Architecture(name, build, lambda _: CIFAR_PREPROCESS, f"relprop, {kind} shortcuts")


def _factory(name: str) -> Architecture:
    """Import `package.module:factory`; a file of the current folder counts, as for `python -m`."""
    module_name, _, attribute = name.partition(":")
    with _current_folder_importable():
        try:
            found: Any = importlib.import_module(module_name)
        except Exception as error:  # whatever the user's module raises
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(f"{name!r} cannot be imported ({reason}); it is read as package.module:factory") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"the module {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{name} is a {type(found).__name__}; it has to be a function or class that returns a model")
    build = (lambda: found) if isinstance(found, nn.Module) else found
    return Architecture(name, cast("Callable[[], nn.Module]", build), lambda _: Preprocess(), name)


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
