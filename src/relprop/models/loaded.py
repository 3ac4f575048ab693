"""What loading a model gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from relprop.images import Preprocess


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to be explained.

    Attributes:
        model: in evaluation mode, on the device that was asked for.
        name: short, for titles.
        preprocess: turns a picture into the model's input.
        classes: a name for each output; None where nobody says.
        source: where architecture and weights come from, for manifests.
    """

    model: nn.Module | ExportedProgram
    name: str
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    source: str

    def class_name(self, index: int) -> str:
        """Name of output `index`; "class 7" where it has none."""
        return self.classes[index] if self.classes and 0 <= index < len(self.classes) else f"class {index}"
