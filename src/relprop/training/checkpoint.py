"""Checkpoints, and the weights that a run ends with: safetensors and JSON, neither able to run code when read.

A checkpoint is one `checkpoint-0007.safetensors` and the manifest `checkpoint.json` that names it. Each file is written
beside its place, flushed to the disk and renamed, the manifest last: after a kill at any moment the manifest names a
complete file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from relprop.documents import read_object, require_regular
from relprop.errors import RunError
from relprop.files import write_bytes
from relprop.training.recipes import Recipe

MANIFEST = "checkpoint.json"
FORMAT = 1


def save_checkpoint(out: Path, number: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write checkpoint `number` under `out`, then drop the older ones."""
    # clones: safetensors refuses tensors that share memory, and torch may have tied some
    content = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
    name = f"checkpoint-{number:04d}.safetensors"
    write_bytes(out / name, content)
    manifest = {"format": FORMAT, "tensors": name, "sha256": hashlib.sha256(content).hexdigest(), **facts}
    write_bytes(out / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    unfinished = out.glob(".checkpoint*")  # left by a run that was killed while it wrote
    for old in (*out.glob("checkpoint-*.safetensors"), *unfinished):
        if old.name != name:
            old.unlink()


def load_checkpoint(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the last checkpoint under `out`, or None where there is none.

    Raises:
        RunError: the manifest or its tensors are damaged or of another version.
    """
    manifest = out / MANIFEST
    if not manifest.exists():
        return None
    again = "delete the folder's checkpoint files, or choose another --out, to start again"
    try:
        facts = read_object(manifest, RunError)
        if facts["format"] != FORMAT:
            raise RunError(f"{manifest} has format {facts['format']}; this version reads {FORMAT}; {again}")
        if not re.fullmatch(r"checkpoint-\d{4,}\.safetensors", str(facts["tensors"])):
            raise RunError(
                f"{manifest} names {facts['tensors']!r} for its tensors, which no checkpoint is called; {again}"
            )
        path = out / str(facts["tensors"])
        require_regular(path, RunError)
        if hashlib.sha256(path.read_bytes()).hexdigest() != facts["sha256"]:
            raise RunError(f"{path} is not what {manifest} describes (another SHA-256); {again}")
        return load_file(path), facts
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"the checkpoint {manifest} cannot be read: {error}; {again}") from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the optimizer's state into tensors, named "optimizer.INDEX.KEY", and plain values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    return tensors, {"state": plain, "groups": state["param_groups"]}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Undo `pack_optimizer`."""
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in plain["state"].items()}
    for name, value in tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix` and a dot, under the rest of the name."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


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
