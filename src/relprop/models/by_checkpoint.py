"""Models from a checkpoint: the tensors, the network they belong to, and how its pictures are prepared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torchvision import models as zoo

from relprop.errors import ModelError, UsageError
from relprop.images import Preprocess
from relprop.models.architectures import CIFAR, CIFAR_CLASSES, find_architecture, imports, torchvision_names
from relprop.models.checkpoint import Checkpoint
from relprop.models.classes import require_count
from relprop.models.loaded import LoadedModel
from relprop.models.tensors import ends, fit

SIDE = 8192
"""Largest side of an input that a file's metadata may ask for."""


def load_into(checkpoint: Checkpoint, arch: str | None, *, trust: bool = False) -> LoadedModel:
    """Build the network that `checkpoint` belongs to and load it.

    Which one is said by `arch`, by the metadata of a safetensors file, or by the name of a file that torchvision
    publishes. What metadata say is not imported unless `trust` says that it may be.

    Raises:
        ModelError: nobody says which, the metadata ask for an import, or the tensors do not fit it.
    """
    path = checkpoint.path
    published = _published(path.name)
    said = checkpoint.metadata.get("arch")
    if arch is None and isinstance(said, str) and imports(said) and not trust:
        raise ModelError(
            f"the metadata of {path} ask for the architecture {said!r}, which would be imported and run; nothing is "
            f"imported because a file says so. If you trust the file, say it yourself: arch={said!r} (--arch), or "
            "trust=True (--trust)"
        )
    arch = arch or said or (published and published[0])
    if not isinstance(arch, str):
        raise ModelError(
            f"{path} does not say what network it belongs to; give arch (--arch): a torchvision or timm name, "
            "cifar-resnet20, or package.module:factory"
        )
    projections = any(part in name for name in checkpoint.tensors for part in (".downsample.", ".shortcut."))
    found = find_architecture(arch, projections=projections)
    model = found.make()
    notes = fit(model, checkpoint, arch)
    channels, outputs = ends(model)
    preprocess = replace(_preprocess(checkpoint, found.preprocess(model)), channels=channels or 3)
    weights = published[1] if published and published[0] == arch else None
    if weights is not None:
        preprocess = Preprocess.from_torchvision(weights.transforms())
        if hasattr(model, "transform_input"):
            vars(model)["transform_input"] = True  # Inception, GoogLeNet: torchvision sets it with its own weights
    source = "; ".join([f"{path} (sha256 {checkpoint.digest}) in {found.origin} {arch}", *notes])
    known = weights is not None or CIFAR.fullmatch(arch) is not None
    guessed = () if known else tuple(key for key in ("size", "mean", "std") if key not in checkpoint.metadata)
    return LoadedModel(model, path.stem, preprocess, _classes(checkpoint, arch, weights, outputs), source, guessed)


def _published(filename: str) -> tuple[str, Any] | None:
    """Model and weights that torchvision publishes under this file name, which ends with a hash."""
    for name in torchvision_names():
        for weights in zoo.get_model_weights(name):
            if weights.url.endswith(f"/{filename}"):
                return name, weights
    return None


def _preprocess(checkpoint: Checkpoint, usual: Preprocess) -> Preprocess:
    """Take what the file's metadata say, over what is usual for the network."""
    said = {key: checkpoint.metadata[key] for key in ("size", "resize", "mean", "std") if key in checkpoint.metadata}
    sides = {key: said[key] for key in ("size", "resize") if key in said}
    try:
        if not all(type(side) is int and 0 < side <= SIDE for side in sides.values()):
            raise UsageError(f"size and resize have to be whole numbers from 1 to {SIDE}; they are {sides}")
        return replace(usual, **said)
    except (TypeError, UsageError) as error:
        raise ModelError(f"{checkpoint.path}: its metadata on preprocessing cannot be used: {error}") from None


def _classes(checkpoint: Checkpoint, arch: str, weights: Any, outputs: int | None) -> tuple[str, ...] | None:
    said = checkpoint.metadata.get("classes")
    if said is None and weights is not None:
        said = weights.meta["categories"]
    if said is None and CIFAR.fullmatch(arch):
        said = CIFAR_CLASSES if outputs == len(CIFAR_CLASSES) else None
    if said is None:
        return None
    if not isinstance(said, list | tuple):
        raise ModelError(f"{checkpoint.path}: its metadata on classes are a {type(said).__name__}, not a list of names")
    if "classes" in checkpoint.metadata:
        require_count(checkpoint.path, said, outputs)
    return tuple(map(str, said)) if len(said) == outputs else None
