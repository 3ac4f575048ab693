"""Pickles that somebody trusts: whole models among them. Reading one runs whatever code it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from relprop.errors import ModelError, UsageError
from relprop.images import Preprocess
from relprop.models.by_checkpoint import load_into
from relprop.models.checkpoint import NESTS, checkpoint_of, read_checkpoint
from relprop.models.classes import classes_in
from relprop.models.fit import ends
from relprop.models.loaded import LoadedModel

if TYPE_CHECKING:
    from pathlib import Path


def load_trusted(path: Path, arch: str | None) -> LoadedModel:
    """Load a checkpoint, or a pickle of a whole model, with whatever code it needs.

    A whole model is taken as it is, with ImageNet's preprocessing, its own number of channels, and the names of the
    classes that lie beside it. A file that can be read without running code is.

    Raises:
        ModelError: it cannot be read, or its code is not here.
        UsageError: an architecture was given for a whole model, which brings it.
    """
    try:
        return load_into(read_checkpoint(path), arch)
    except ModelError as error:
        if "holds pickled Python objects" not in str(error):
            raise
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{path} holds objects whose code is not here ({error}); run where its module or package can be imported"
        ) from None
    except Exception as error:  # an object that is being made may raise anything
        raise ModelError(f"reading {path} failed with {type(error).__name__}: {error}") from error
    model = _model_in(content)
    if model is None:
        return load_into(checkpoint_of(path, content), arch)
    if arch is not None:
        raise UsageError(f"{path} holds a whole model, which brings its architecture; leave arch={arch!r} out")
    preprocess = Preprocess().adapt(channels=ends(model)[0] or 3)
    source = f"{type(model).__name__}, pickled in {path}"
    return LoadedModel(model, path.stem, preprocess, classes_in(content), source)


def _model_in(content: Any) -> nn.Module | None:
    """The model itself, or the one under one of `NESTS`."""
    found = content if isinstance(content, nn.Module) else None
    if isinstance(content, Mapping):
        found = next((content[key] for key in NESTS if isinstance(content.get(key), nn.Module)), None)
    return found
