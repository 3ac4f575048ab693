"""Results on disk: raw tensors beside a manifest that says what they are. No pickle, so nothing runs on reading."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from relprop.documents import naming, read_object, require_regular
from relprop.errors import InputError

_TENSORS, _MANIFEST = "relevance.safetensors", "manifest.json"


def write_result(directory: str | Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> Path:
    """Write tensors and manifest, with the versions that made them, into a directory, made if absent; returns it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # a copy each: the format holds no two tensors of one memory, which views of one backward pass may be
    copies = {name: t.detach().contiguous().cpu().clone() for name, t in tensors.items()}
    try:
        save_file(copies, directory / _TENSORS)
    except SafetensorError as error:  # as it says that a disk is full
        raise OSError(errno.EIO, str(error), str(directory / _TENSORS)) from None
    document = {**manifest, "relprop": version("relprop"), "torch": torch.__version__}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    with naming(directory / _MANIFEST):
        (directory / _MANIFEST).write_bytes(text.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
    return directory


_REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Stored:
    """What `write_result` wrote, and what is asked of it: what is missing or of another kind is an `InputError`."""

    def __init__(self, directory: str | Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        self.directory, path = directory, Path(directory)
        try:
            self.manifest = read_object(path / _MANIFEST, InputError)
            require_regular(path / _TENSORS, InputError)
            self.tensors = load((path / _TENSORS).read_bytes())  # by name it takes UTF-8 alone
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{path} holds no result that can be read: {error}") from None

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """Return an entry of the manifest, of the given kind."""
        found = self.manifest.get(name, default)
        return found if type(found) is kind else self.refuse(f"{_MANIFEST} has {name!r}: {repr(found)[:60]}")

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self.get(name, list)
        if any(type(one) is not str for one in found):
            self.refuse(f"{name!r} holds other than text")
        return tuple(found)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Return a tensor of real numbers ("target" of whole ones), of the given shape."""
        found = self.tensors.get(name)
        if found is None:
            return self.refuse(f"{_TENSORS} has no {name!r}")
        if found.dtype not in ((torch.int64,) if name == "target" else _REAL):
            return self.refuse(f"{_TENSORS} has {name!r} of {found.dtype}")
        if shape is not None and tuple(found.shape) != shape:
            return self.refuse(f"{_TENSORS} has {name!r} of shape {tuple(found.shape)}, not {shape}")
        return found

    def refuse(self, why: str) -> NoReturn:
        """Raise.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.directory} holds no result that can be read: {why}")
