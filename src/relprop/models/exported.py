"""Exported programs: `.pt2` files of `torch.export.save`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import ExportedProgram

from relprop.errors import ModelError
from relprop.images import Preprocess
from relprop.models.loaded import LoadedModel


def load_exported(path: Path, *, trust: bool, device: str) -> LoadedModel:
    """Load a `.pt2` file; its input's shape says size and channels.

    Raises:
        ModelError: not trusted, unreadable, or not a program from one picture tensor.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}")
    if not trust:
        raise ModelError(
            f"{path} is an exported program, and reading one can run code that it holds; if you trust where it comes "
            "from, say so with trust=True (--trust)"
        )
    try:
        program = torch.export.load(path)
    except Exception as error:  # the reader raises nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path} is not an exported program of this version of torch: {reason}") from None
    channels, size = _input_of(path, program)
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    preprocess = Preprocess().adapt(size=size, channels=channels)
    return LoadedModel(program, path.stem, preprocess, None, f"exported program {path}")


def _input_of(path: Path, program: ExportedProgram) -> tuple[int, int | None]:
    """Channels and side of the program's input; the side is None where the program leaves it open."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    shapes = [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]
    if len(values) != 1 or len(shapes) != 1 or len(shapes[0]) != 4:
        raise ModelError(f"{path} takes {len(values)} inputs of shapes {shapes}; it has to take one, (N, C, H, W)")
    _, channels, height, width = shapes[0]
    if not (isinstance(height, int) and isinstance(width, int)):
        return int(channels), None
    if height != width:
        raise ModelError(f"{path} takes pictures of {height} x {width}; only square ones can be prepared")
    return int(channels), height
