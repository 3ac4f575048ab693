"""Read a checkpoint without running code that it may hold."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.errors import ModelError
from relprop.models.classes import classes_in

NESTS = ("state_dict", "model", "model_state_dict", "net")
SHOWN = 3
DEPTH = 8
"""Dictionaries within dictionaries that are looked into; a pickle may hold itself."""
REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what a safetensors file says about them."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the file's SHA-256."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read safetensors, or a pickle that holds tensors and plain values alone.

    Raises:
        ModelError: no such file, a damaged one, one that would run code, or one without tensors.
    """
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {str(path)!r}" + (": it is a folder" if path.is_dir() else ""))
    if not path.stat().st_size:
        raise ModelError(f"the checkpoint {path} is empty (0 bytes); copy or download it again")
    if path.suffix == ".safetensors":
        return checked(path, *_read_safetensors(path))
    return checkpoint_of(path, _read_pickle(path))


def checkpoint_of(path: Path, content: Any) -> Checkpoint:
    """What a training script saved: its tensors, and the names of its classes if they lie beside them.

    Raises:
        ModelError: no tensors, or some that are not finite.
    """
    names = classes_in(content)
    return checked(path, find_tensors(path, content), {} if names is None else {"classes": list(names)})


def checked(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint of weights that can be used.

    Raises:
        ModelError: there are none, or some that are no weights, NaN among them.
    """
    if not tensors:
        raise ModelError(f"{path} holds no tensors; save model.state_dict()")
    for name, tensor in tensors.items():
        if problem := unusable(tensor):
            raise ModelError(f"{path}: {name} {problem}")
    return Checkpoint(path, tensors, metadata)


def unusable(tensor: Tensor) -> str:
    """Say why a tensor of a file cannot be a weight; "" where it can.

    A view that claims more values than the file holds is not read: that alone could take all memory.
    """
    save = "save dense float32 weights"
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return f"is {'quantized' if tensor.is_quantized else 'sparse'}, which is not read here; {save}"
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device.type!r}, so its values are not in the file; {save}"
    if tensor.is_complex():
        return "holds complex numbers; relevance is defined for real weights alone"
    if tensor.dtype not in (*REAL, *WHOLE):
        return f"holds {str(tensor.dtype).removeprefix('torch.')}, which torch does not compute with; {save}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        held = tensor.untyped_storage().nbytes()
        return f"claims the shape {tuple(tensor.shape)}, and only {held} bytes of it are in the file; {save}"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        return "holds NaN or infinite weights; the training diverged or the file is damaged"
    return ""


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file, or is damaged: {error}") from None
    return tensors, {key: value for key, text in metadata.items() if (value := _json(text)) is not None}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # other writers put plain text there


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd archives: what matters here is whether they can be read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            is_pickle = file.read(2) in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
        raise (_refused(path, str(error)) if is_pickle else _damaged(path, "unknown format")) from None
    except Exception as error:  # on damaged bytes the readers raise nearly anything
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript archive, which holds code and is not read here; save the state_dict() of the "
                "original model, or torch.export.save it as .pt2, or in Python give torch.jit.load(path) to "
                "relprop.explain"
            ) from None
        reason = str(error).split("\n")[0] or type(error).__name__
        # torch advises to read without the safeguard; we do not
        raise _damaged(path, "unknown format" if "weights_only" in reason else reason) from None


def _refused(path: Path, reason: str) -> ModelError:
    culprit = re.search(r"GLOBAL ([\w.]+\w)", reason)
    return ModelError(
        f"{path} holds pickled Python objects{f' ({culprit[1]})' if culprit else ''}; reading them can run code, so it "
        "is refused. trust=True (--trust) opens .pt2 files alone: they bring their computation, while a pickled model "
        "needs the code of its classes. If you trust the file, convert it once where that code is installed: "
        f"c = torch.load({str(path)!r}, weights_only=False); "
        "torch.save(c['state_dict'] if isinstance(c, dict) else c.state_dict(), 'weights.pth')"
    )


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is not a checkpoint, or is damaged or truncated ({reason})")


def find_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Find the state dict in what a training script saved: itself, or under one of `NESTS`.

    Raises:
        ModelError: there is none.
    """
    for _ in range(DEPTH):
        nested = [
            content[key] for key in NESTS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
        ]
        if not nested:
            break
        content = nested[0]
    else:
        raise ModelError(
            f"{path} holds dictionaries in dictionaries, more than {DEPTH} deep or in themselves; "
            "save model.state_dict()"
        )
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    keys = few([str(key) for key in content]) or "nothing"
    raise ModelError(f"{path} holds no tensors under {', '.join(NESTS)}, nor at its top level; it holds {keys}")


def few(names: list[str]) -> str:
    """List the first names, and count the others."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
