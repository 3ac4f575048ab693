"""The network that a recipe names, with a last layer for the classes of the data."""

from __future__ import annotations

import torch
from torch import nn

from relprop.errors import ModelError
from relprop.models import load_model
from relprop.models.architectures import find_architecture
from relprop.seeding import mix
from relprop.training.recipes import Recipe


def build_network(recipe: Recipe, num_classes: int, seed: int) -> nn.Module:
    """Build `recipe.arch` with `recipe.init`; whatever is drawn at random is drawn from `seed`.

    Raises:
        ModelError: an unknown architecture, or weights that cannot be had.
    """
    if recipe.init == "random":
        model = find_architecture(recipe.arch).make(mix(seed, 4))
        if _head(model)[1].out_features == num_classes:
            return model
    else:
        published = recipe.init == "pretrained"
        loaded = load_model(recipe.arch) if published else load_model(recipe.init, arch=recipe.arch)
        if not isinstance(loaded.model, nn.Module):
            raise ModelError(f"{recipe.init} is an exported program, which cannot be trained; give a checkpoint")
        model = loaded.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 5))
        return with_new_head(model, num_classes)


def with_new_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Replace the last `nn.Linear` of `model` by a fresh one with `num_classes` outputs; returns `model`.

    Raises:
        ModelError: the model holds no `nn.Linear`.
    """
    name, old = _head(model)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Linear(old.in_features, num_classes, old.bias is not None))
    return model


def _head(model: nn.Module) -> tuple[str, nn.Linear]:
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ModelError(f"{type(model).__name__} has no nn.Linear that could be its last layer; choose another arch")
    return linears[-1]
