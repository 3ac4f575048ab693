"""relprop in torchcam's habit: `explain(...)` of one image, whose result saves maps, pictures and a manifest.

    from relprop.adapters.torchcam import explain       # instead of: from torchcam.explain import explain
    explain(model, x, expected_class_idx=281).save("out", image)

torchcam itself is not needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from relprop.core.capture import Model
from relprop.core.composites.composite import Composite
from relprop.core.lrp import LRP
from relprop.core.result.relevance import Relevance
from relprop.core.targets.target import Scale
from relprop.errors import InputError, UsageError, require

__all__ = ["PredictionExplanation", "explain"]


@dataclass(frozen=True)
class PredictionExplanation:
    """The prediction for one image, and the relevance of its pixels for one class or two.

    Attributes:
        results: for each class, its relevance (1, C, H, W) and the ledger.
        predicted_class_idx: the class with the highest score.
        expected_class_idx: the other class asked for, if one was.
        model: the model's type.
        class_names: of all classes, if given.
    """

    results: Mapping[int, Relevance]
    predicted_class_idx: int
    expected_class_idx: int | None
    model: str
    class_names: tuple[str, ...] | None = None

    @property
    def logits(self) -> Tensor:
        """(1, classes) what the model said."""
        return self.results[self.predicted_class_idx].logits

    @property
    def cams(self) -> Mapping[int, tuple[Tensor, ...]]:
        """(H, W) by class: relevance per pixel, signed and never rescaled to [0, 1]; each sums to its class's score."""
        return {index: (result.heatmap[0],) for index, result in self.results.items()}

    def save(self, directory: str | Path, image: Image | None = None) -> Path:
        """Write raw maps (.npy), pictures of them, overlays, and a manifest into a new directory.

        Args:
            directory: must not exist yet; it is there whole, or not at all.
            image: the picture that the network saw, for overlays; resized where its size differs.

        Returns:
            The directory.

        Raises:
            FileExistsError: it exists.
            InputError: `image` is not a PIL image.
        """
        if image is not None and not hasattr(image, "convert"):
            raise InputError(f"image must be a PIL image, not {type(image).__name__}")
        folder = Path(directory)
        if folder.exists():
            raise FileExistsError(f"output directory already exists: {folder}")
        folder.mkdir(parents=True)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder)
            classes = {str(index): self._write(folder, index, image) for index in self.results}
            text = json.dumps(self._manifest(classes, image), indent=2, sort_keys=True, allow_nan=False)
            (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
            undo.pop_all()
        return folder

    def _write(self, folder: Path, index: int, image: Image | None) -> dict[str, Any]:
        """Write the files of one class; returns its lines in the manifest."""
        import numpy as np

        result, heatmap = self.results[index], self.results[index].heatmap[0]
        viz = require("relprop.viz", "all")  # drawing stands above the adapters, and is reached when it is needed
        files = {"map": f"class-{index}.npy", "heatmap": f"class-{index}-heatmap.png"}
        np.save(folder / files["map"], heatmap.cpu().numpy(), allow_pickle=False)
        scale = viz.scale_of(heatmap)
        viz.save_pixels(viz.blend(None, heatmap, scale), folder / files["heatmap"])
        if image is not None:
            files["overlay"] = f"class-{index}-overlay.png"
            height, width = heatmap.shape
            viz.save_pixels(viz.blend(image.resize((width, height)), heatmap, scale), folder / files["overlay"])
        return {
            **self._reference(index),
            "logit": float(result.logits[0, index]),
            "probability": float(result.probability[0]),
            "relevance_sum": float(heatmap.double().sum()),
            "gap": None if result.ledger is None else result.ledger.gap,
            "colours": scale.note,
            "artifacts": files,
        }

    def _manifest(self, classes: Mapping[str, Any], image: Image | None) -> dict[str, Any]:
        expected, result = self.expected_class_idx, self.results[self.predicted_class_idx]
        return {
            "schema_version": 1,
            "method": f"LRP, {result.composite}",
            "model": self.model,
            "input_shape": list(result.relevance.shape),
            "image_size": None if image is None else list(image.size),
            "prediction": self._reference(self.predicted_class_idx),
            "expected": None if expected is None else self._reference(expected),
            "classes": classes,
            "versions": {"relprop": version("relprop"), "torch": str(torch.__version__)},
        }

    def _reference(self, index: int) -> dict[str, Any]:
        return {"class_idx": index, "class_name": None if self.class_names is None else self.class_names[index]}


def explain(
    model: Model,
    input_tensor: Tensor,
    *,
    expected_class_idx: int | None = None,
    class_names: Sequence[str] | None = None,
    composite: Composite | None = None,
    start: Scale = "probability",
) -> PredictionExplanation:
    """Explain the predicted class of one image, and the expected class if that is another.

    Args:
        model: in evaluation mode, (1, C, H, W) -> (1, classes).
        input_tensor: (1, C, H, W).
        expected_class_idx: a second class to explain.
        class_names: one for each class, for the manifest.
        composite: which rules to use; `relprop.paper()` by default.
        start: relevance begins with the class's "probability" or its "logit".

    Raises:
        InputError: more than one image.
        RelpropError: see `relprop.explain`.
    """
    if not isinstance(input_tensor, Tensor) or len(input_tensor) != 1:
        raise InputError("explain takes one image (1, C, H, W); relprop.explain takes a batch")
    lrp = LRP(model, composite)
    result = lrp(input_tensor, start=start)
    predicted, classes = int(result.target[0]), result.logits.shape[1]
    if class_names is not None and len(class_names) != classes:
        raise UsageError(f"{len(class_names)} class names were given for {classes} classes")
    results = {predicted: result.cpu()}
    if expected_class_idx is not None and expected_class_idx != predicted:
        results[expected_class_idx] = lrp(input_tensor, expected_class_idx, start=start).cpu()
    kind = type(lrp.model)
    names = None if class_names is None else tuple(class_names)
    return PredictionExplanation(
        results, predicted, expected_class_idx, f"{kind.__module__}.{kind.__qualname__}", names
    )
