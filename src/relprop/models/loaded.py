"""What loading a model gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.images import Preprocess
from relprop.models.classes import class_index


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to be explained.

    Attributes:
        model: in evaluation mode, on the device that was asked for.
        name: short, for titles.
        preprocess: turns a picture into the model's input.
        classes: a name for each output; None where nobody says.
        source: where architecture and weights come from, for manifests.
        guessed: which of "size", "mean" and "std" of the preprocessing the file did not say, nor anybody else: what is
            usual for the network was taken. Wrong ones raise no error, and give wrong probabilities.
    """

    model: nn.Module | ExportedProgram
    name: str
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    source: str
    guessed: tuple[str, ...] = ()

    def class_name(self, index: int) -> str:
        """Name of output `index`; "class 7" where it has none."""
        return self.classes[index] if self.classes and 0 <= index < len(self.classes) else f"class {index}"

    def class_index(self, name: str) -> int:
        """Index of the class called `name`, in any case; of "tabby, tabby cat" each part is a name too.

        Raises:
            TargetError: no class is called so, several are, or the names are not known.
        """
        return class_index(name, self.classes)

    def named_by(self, classes: Sequence[str] | None) -> LoadedModel:
        """Take over the names of a data set's classes, where the model has none and there is one for each output."""
        if self.classes or not classes or len(classes) != self.outputs():
            return self
        return replace(self, classes=tuple(classes))

    def example(self) -> Tensor:
        """One input (1, C, H, W) of the right shape: a grey picture."""
        return self.preprocess(Image.new("RGB", (256, 256), (127, 127, 127)))[None]

    def outputs(self) -> int | None:
        """How many classes the model tells apart, by a forward run of a grey picture; None where that fails."""
        try:
            model: Any = self.model if isinstance(self.model, torch.nn.Module) else self.model.module()
            weight = next(iter(model.parameters()), None)
            with torch.inference_mode():
                found = model(self.example().to(torch.device("cpu") if weight is None else weight.device))
        except Exception:  # whatever the model raises: the explanation will say it
            return None
        return found.shape[1] if isinstance(found, torch.Tensor) and found.dim() == 2 else None
