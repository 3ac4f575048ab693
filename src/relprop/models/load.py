"""`load_model`: one door for every kind of model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from relprop.core.capture import last_step
from relprop.core.targets.start import require_scores
from relprop.errors import ModelError, UsageError
from relprop.models import bundled
from relprop.models.architectures import CIFAR_NAMES, timm_names, torchvision_names
from relprop.models.by_checkpoint import load_into
from relprop.models.by_name import load_named
from relprop.models.checkpoint import read_checkpoint
from relprop.models.classes import Names, read_classes, require_count
from relprop.models.exported import load_exported
from relprop.models.loaded import LoadedModel

DEFAULT_MODEL = bundled.EFFICIENTNET
FILES = frozenset({".pt", ".pth", ".th", ".bin", ".ckpt", ".tar", ".safetensors", ".pkl", ".pt2"})


def load_model(
    name: str | Path = DEFAULT_MODEL,
    *,
    arch: str | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Names | None = None,
    device: str | torch.device = "cpu",
    trust: bool = False,
    multi_label: bool = False,
) -> LoadedModel:
    """Load a model in evaluation mode, with its preprocessing and, where they are known, its class names.

    Args:
        name: one of
            - `efficientnet-lite0` (the default, extra `demo`) or `resnet20-cifar10`: need no network; nor do
              `efficientnet-lite1` and `-lite2` (extra `efficientnet`);
            - a torchvision name, with its first ImageNet weights; `resnet50@IMAGENET1K_V2` takes others;
            - `timm:NAME`, or a name that timm alone knows, with timm's weights;
            - `package.module:factory`: a function or class, called without arguments;
            - `random:NAME`: any of these, untrained, always with the same weights;
            - a checkpoint (safetensors, or a pickle of tensors; needs `arch` unless the file says it);
            - a `.pt2` file of `torch.export.save` (needs `trust`).
        arch: architecture of a checkpoint: a torchvision or timm name, `cifar-resnet20` (zero-padded shortcuts; `-b`:
            projections), `package.module:factory`. The number of classes, grey input and the kind of shortcut are
            read off the checkpoint.
        size: side of the input in pixels; the resize before the crop is scaled with it.
        mean: of each channel of the picture in [0, 1], subtracted first.
        std: of each channel; divides what is left.
        classes: names of the outputs: a list, a mapping of names to indices (ImageFolder's `class_to_idx`), or the path
            of a text file with one name a line, of a JSON file, or of a folder with a subfolder for each class. By
            default those that the file or the library brings.
        device: where the model goes.
        trust: load a `.pt2` file although its reader can run code that the file holds, and import the factory that the
            metadata of a checkpoint name. A pickle of a whole model is not
            opened with it either: that needs the code of its classes, and one line converts it, which the error gives.
        multi_label: whether each class is a yes or no of its own: the model then returns the sigmoids of its scores,
            which all that explains and measures it takes for probabilities. One that ends in a sigmoid stays as it is.

    Raises:
        ModelError: no such model, or its weights cannot be had, read or fitted, or it has not as many outputs as there
            are names; the message says what to do.
        UsageError: options that do not go together.
        MissingDependencyError: the library that has the model is not installed.
    """
    text, chosen = str(name), _device(device)
    if arch is not None and not _is_file(text):
        raise UsageError(f"arch={arch!r} goes with a checkpoint; {text!r} is not a file")
    if Path(text).suffix == ".pt2" and arch is not None:
        raise UsageError(f"{text} is an exported program, which brings its architecture; leave arch={arch!r} out")
    names = None if classes is None else read_classes(classes)  # before the model, which may take long
    loaded = _load(text, arch, trust, chosen)
    if isinstance(loaded.model, nn.Module):
        loaded.model.eval().to(chosen)
    said = any(value is not None for value in (size, mean, std))  # who says one knows of the others
    guessed = () if said else loaded.guessed
    loaded = replace(loaded, preprocess=loaded.preprocess.adapt(size=size, mean=mean, std=std), guessed=guessed)
    if multi_label:
        _end_in_sigmoid(loaded, chosen)
    if names is None:
        return loaded
    require_count(loaded.name, names, loaded.outputs())
    return replace(loaded, classes=names)


def _end_in_sigmoid(loaded: LoadedModel, device: str) -> None:
    """Let a model return the sigmoid of each score, unless it does."""
    if not isinstance(loaded.model, nn.Module):
        raise UsageError(
            f"{loaded.name} is an exported program, whose end stays as it is; export it with a sigmoid at its end, by "
            "which it is known as a multi-label model"
        )
    if last_step(loaded.model, loaded.example().to(device)) != "sigmoid":
        loaded.model.register_forward_hook(_sigmoid)


def _sigmoid(module: nn.Module, given: object, scores: object) -> Tensor:
    return require_scores(scores).sigmoid()


def model_names() -> list[str]:
    """All names that `load_model` knows here, as `arch` or on their own; timm's where it is installed."""
    ours = [*bundled.EFFICIENTNETS, *([bundled.RESNET20] if bundled.RESNET20_FILE.exists() else []), *CIFAR_NAMES]
    return [*ours, *torchvision_names(), *(f"timm:{name}" for name in timm_names())]


def _device(device: str | torch.device) -> str:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the device {str(device)!r} cannot be used here: {reason}; cpu always can") from None
    return str(found)


def _is_file(text: str) -> bool:
    return Path(text).suffix.lower() in FILES or os.sep in text or Path(text).is_file()


def _load(name: str, arch: str | None, trust: bool, device: str) -> LoadedModel:
    if name in bundled.EFFICIENTNETS:
        return bundled.efficientnet_lite(name)
    if name == bundled.RESNET20:
        return _shipped()
    if not _is_file(name):
        return load_named(name)
    if Path(name).suffix == ".pt2":
        return load_exported(Path(name), trust=trust, device=device)
    return load_into(read_checkpoint(Path(name)), arch, trust=trust)


def _shipped() -> LoadedModel:
    path = bundled.RESNET20_FILE
    if not path.exists():
        raise ModelError(f"this installation of relprop lacks {path.name}; install it again")
    loaded = load_into(read_checkpoint(path), None)
    return replace(loaded, name=bundled.RESNET20, source=f"shipped with relprop: {loaded.source}")
