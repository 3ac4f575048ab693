"""What a model returns, and the one tensor in it that is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from relprop.errors import CaptureError

#: entries that hold the scores where there are several tensors: Hugging Face's name, and torchvision's
NAMES = ("logits", "out")


def scores_in(output: Any) -> Tensor:
    """The scores in what a model returns: a tensor, or the one in a dict, dataclass or tuple.

    Of several tensors it is the one named "logits" (Hugging Face) or "out" (torchvision's segmentation).

    Raises:
        CaptureError: there is no tensor, or several of which none has such a name.
    """
    if isinstance(output, Tensor):
        return output
    entries = {name: value for name, value in _entries(output).items() if isinstance(value, Tensor)}
    named = [name for name in NAMES if name in entries]
    if named or len(entries) == 1:
        return entries[named[0] if named else next(iter(entries))]
    found = f"tensors {', '.join(entries)} are in it" if entries else "no tensor is in it"
    raise CaptureError(
        f"the model returns {type(output).__name__}; relprop explains an (N, classes) tensor, alone or as the entry "
        f"{' or '.join(map(repr, NAMES))} ({found}): wrap the model so that it returns its scores alone"
    )


def _entries(output: Any) -> Mapping[str, Any]:
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if hasattr(output, "_asdict"):  # a named tuple
        return dict(output._asdict())
    if isinstance(output, tuple | list):
        return {str(place): value for place, value in enumerate(output)}
    return {}


class Scores(nn.Module):
    """A model of which the scores alone are taken, for the time of a capture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> the scores."""
        return scores_in(self.model(x))
