"""Results on disk: raw tensors beside a manifest that says what they are. No pickle, so nothing runs on reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError

_TENSORS, _MANIFEST = "relevance.safetensors", "manifest.json"


def write_result(directory: str | Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> Path:
    """Write tensors and manifest, with the versions that made them, into a directory, made if absent; returns it."""
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # a copy each: the format holds no two tensors of one memory, which views of one walk may be
    save_file({name: t.detach().contiguous().cpu().clone() for name, t in tensors.items()}, directory / _TENSORS)
    document = {**manifest, "relprop": version("relprop"), "torch": torch.__version__}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (directory / _MANIFEST).write_bytes(text.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
    return directory


def read_result(directory: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the manifest and the tensors that `write_result` wrote.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError(f"{_MANIFEST} is no object")
        return manifest, load_file(directory / _TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{directory} holds no result that can be read: {error}") from None
