"""What a metric is, and how it reads what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from relprop.errors import InputError, TargetError, UsageError
from relprop.explainer import Explainer, Post
from relprop.registry import Registry

Array = Tensor | np.ndarray[Any, Any]
Classes = int | Sequence[int] | Array | None


@dataclass(frozen=True, eq=False)
class Inputs:
    """All that a metric may look at. What it needs and does not find, it asks for.

    Attributes:
        model: returns (N, classes); stays as it is.
        x: (N, C, H, W) normalised inputs.
        heatmap: (N, H, W); (M, N, H, W) for metrics that measure several heatmaps of the same inputs together.
        target: (N,) the classes explained; one number stands for all.
        label: (N,) the true classes.
        preprocess: has `normalize`: what black is to the network.
        black: the same, as a tensor.
        explainer: the one that made the heatmap.
        post: what was done to the heatmap then.
        inside: (N, H, W) bool, the pixels that lie on the object.
        boxes: (N, 4), the same as `box_mask` takes it.
    """

    model: Any
    x: Tensor
    heatmap: Tensor
    target: Classes
    label: Classes = None
    preprocess: Any = None
    black: Tensor | None = None
    explainer: Explainer | None = None
    post: Post | None = None
    inside: Array | None = None
    boxes: Array | None = None

    @classmethod
    def read(cls, model: Any, x: Array, heatmap: Array, target: Classes, **given: Any) -> Inputs:
        """Check inputs and heatmaps, and bring both to one device.

        Raises:
            InputError: shapes that do not fit, or heatmaps that are not finite.
        """
        read = read_input(x)
        return cls(model, read, read_heatmap(heatmap, read), target, **given)

    @property
    def classes(self) -> Tensor:
        """The classes explained, (N,) int64."""
        return read_classes(self.target, self.x, "explained class")

    def explain(self, model: Any, classes: Tensor, why: str) -> Tensor:
        """Make heatmaps (N, H, W) anew, of another model or of other classes.

        Raises:
            UsageError: nobody said by which explainer.
        """
        if self.explainer is None:
            raise UsageError(f"{why}; pass explainer=..., the one that made the heatmap")
        heatmap = self.explainer(model, self.x, classes)
        return heatmap if self.post is None else self.post(heatmap)


class Metric(ABC):
    """One value per sample, under each of its rows' names. Nobody averages here.

    Attributes:
        higher_is_better: for each row; None where neither end is.
        rows: names of the values: the keys of `higher_is_better`.
        unit: of the values.
        reference: where it was defined.
        needs_object: whether it has to know where the object is.
    """

    higher_is_better: ClassVar[Mapping[str, bool | None]]
    rows: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    reference: ClassVar[str]
    needs_object: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.rows = tuple(cls.higher_is_better)

    def __call__(self, model: Any, x: Array, heatmap: Array, target: Classes, **given: Any) -> dict[str, Tensor]:
        """Measure heatmaps (N, H, W) of the classes `target` (N,) for inputs x (N, C, H, W): values (N,) by row.

        Arguments are the fields of `Inputs`; it raises what `Inputs.read` does, and UsageError for what is missing.
        """
        return self.measure(Inputs.read(model, x, heatmap, target, **given))

    @abstractmethod
    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the values (N,), float32, by row."""


METRICS: Registry[Metric] = Registry("metric")


def read_heatmap(heatmap: Array, x: Tensor) -> Tensor:
    """Check heatmaps against their inputs: (..., N, H, W), on the device of `x`.

    Raises:
        InputError: another shape, or values that are not finite.
    """
    maps = torch.as_tensor(heatmap).detach().to(x.device)
    wanted = (len(x), *x.shape[-2:])
    if tuple(maps.shape[-3:]) != wanted:
        raise InputError(
            f"heatmap has shape {tuple(maps.shape)}; inputs {tuple(x.shape)} need (N, H, W) = {wanted}, or several "
            f"such stacked in front: sum over channels, resize, or take one sample at a time"
        )
    maps = maps if maps.is_floating_point() else maps.float()
    bad = ~maps.isfinite().flatten(-2).all(-1).reshape(-1, len(x)).all(0)
    if bool(bad.any()):
        raise InputError(
            f"heatmaps of sample(s) {', '.join(map(str, bad.nonzero().flatten().tolist()))} hold NaN or infinite "
            "values; their pixels cannot be ranked"
        )
    return maps


def read_input(x: Array) -> Tensor:
    """Check inputs: (N, C, H, W), floating point.

    Raises:
        InputError: anything else.
    """
    found = torch.as_tensor(x).detach()
    if found.dim() != 4 or not found.is_floating_point() or not len(found):
        raise InputError(f"x must be pictures (N, C, H, W), floating point; it is {tuple(found.shape)}, {found.dtype}")
    return found


def read_classes(classes: Classes, x: Tensor, what: str) -> Tensor:
    """Check one class for each sample: (N,) int64 on the device of `x`. One number stands for all.

    Raises:
        UsageError: none were given.
        TargetError: not whole numbers, or not N of them.
    """
    if classes is None:
        raise UsageError(f"this needs the {what} of each sample; pass {'label' if 'label' in what else 'target'}=...")
    found = torch.as_tensor(classes).to(x.device)
    found = found.expand(len(x)) if found.dim() == 0 else found
    if found.is_floating_point() or found.dtype == torch.bool or tuple(found.shape) != (len(x),):
        raise TargetError(
            f"the {what} must be whole numbers, one for each of {len(x)} samples; got {found.dtype} "
            f"{tuple(found.shape)}"
        )
    return found.long()
