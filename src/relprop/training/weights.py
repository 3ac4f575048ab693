"""The file that a run ends with: safetensors whose metadata say how to build and feed the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from relprop.files import write_bytes
from relprop.training.recipes import Recipe


def save_weights(path: Path, tensors: Mapping[str, Tensor], recipe: Recipe, classes: Sequence[str], seed: int) -> None:
    """Write weights in the precision that the recipe stores, ready for `relprop.models.load_model(path)`.

    The metadata hold `arch`, `size`, `resize`, `mean`, `std`, `classes`, `recipe` and `seed`, each as JSON.
    """
    dtype = torch.float16 if recipe.store == "float16" else torch.float32
    kept = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().clone().contiguous()
        for name, tensor in tensors.items()
    }
    metadata = {
        "arch": recipe.arch,
        "size": recipe.size,
        "resize": recipe.resize,
        "mean": recipe.mean,
        "std": recipe.std,
        "classes": list(classes),
        "recipe": recipe.to_json(),
        "seed": seed,
    }
    write_bytes(path, save(kept, {key: json.dumps(value) for key, value in metadata.items()}))
