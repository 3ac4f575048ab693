"""Models by name, with weights of torchvision's, timm's or a user's own; or untrained."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

from torch import nn
from torchvision import models as zoo

from relprop.errors import ModelError, require
from relprop.images import Preprocess
from relprop.models.architectures import (
    Architecture,
    find_architecture,
    timm_preprocess,
    torchvision_names,
    torchvision_weights,
)
from relprop.models.bundled import EFFICIENTNET, RESNET20, imagenet_classes
from relprop.models.loaded import LoadedModel
from relprop.models.tensors import ends

T = TypeVar("T")
UNTRAINED = "random:"


def load_named(name: str) -> LoadedModel:
    """Load `random:NAME`, a torchvision or timm name, or `package.module:factory`.

    Raises:
        ModelError: no such model, or its weights cannot be had.
    """
    if name.startswith(UNTRAINED):
        found = find_architecture(name.removeprefix(UNTRAINED))
        return _built(found, name, f"{found.origin} {found.name}, untrained (seed 0)")
    base, _, weights = name.partition("@")
    if base in torchvision_names():
        return _from_torchvision(base, weights or None)
    found = find_architecture(name)
    if found.origin == "timm":
        return _from_timm(found.name)
    if found.origin == found.name:
        return _built(found, name, f"factory {name}")
    raise ModelError(
        f"{name} has no published weights; give a checkpoint with arch={name!r} (--arch), or use {RESNET20} "
        f"(trained) or {UNTRAINED}{name}"
    )


def _built(found: Architecture, name: str, source: str) -> LoadedModel:
    model = found.make()
    preprocess = found.preprocess(model)
    if ends(model)[0] == 1:
        preprocess = replace(preprocess, channels=1)
    return LoadedModel(model, name, preprocess, None, source)


def _from_torchvision(name: str, wanted: str | None) -> LoadedModel:
    weights = torchvision_weights(name, wanted)
    model = _fetch(name, weights.url, lambda: cast("nn.Module", zoo.get_model(name, weights=weights)))
    recipe = Preprocess.from_torchvision(weights.transforms())
    return LoadedModel(model, name, recipe, tuple(weights.meta["categories"]), f"torchvision {name}, {weights}")


def _from_timm(name: str) -> LoadedModel:
    timm = require("timm", "timm")
    if not timm.is_model_pretrained(name):
        raise ModelError(
            f"timm has no trained weights for {name}; give a checkpoint with arch='timm:{name}' (--arch), or "
            f"{UNTRAINED}timm:{name}"
        )
    with _no_retries_without_network():
        model: Any = _fetch(f"timm:{name}", "timm's hub", lambda: timm.create_model(name, pretrained=True))
    config = model.pretrained_cfg
    classes = imagenet_classes() if config.get("num_classes") == 1000 else None
    tag = f".{config['tag']}" if config.get("tag") else ""
    return LoadedModel(model, name, timm_preprocess(model), classes, f"timm {config['architecture']}{tag}")


@contextlib.contextmanager
def _no_retries_without_network() -> Iterator[None]:
    """Look into the hub's cache alone where the hub cannot be found: its client retries for a minute otherwise."""
    constants: Any = require("huggingface_hub.constants", "timm")
    before = constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():  # a proxy finds hosts that we cannot
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _fetch(name: str, origin: str, build: Callable[[], T]) -> T:
    try:
        return build()
    except Exception as error:  # hubs and their clients raise a dozen unrelated kinds
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise ModelError(
            f"the weights of {name} are not on this machine and could not be fetched from {origin} ({reason}); give a "
            f"checkpoint file with arch={name!r} (--arch), use the bundled {EFFICIENTNET}, or {UNTRAINED}{name} for "
            "the untrained network"
        ) from error
