"""What a metric is, and how it reads what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from relprop.errors import InputError, TargetError, UsageError
from relprop.registry import Registry

Array = Tensor | np.ndarray[Any, Any]
Classes = int | Sequence[int] | Array | None


class Metric(Protocol):
    """One value per sample, under each of its rows' names. Nobody averages here.

    Attributes:
        name: in the registry.
        rows: names of the values.
        higher_is_better: for each row; None where neither end is.
        unit: of the values.
        reference: where it was defined.
    """

    name: ClassVar[str]
    rows: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[Mapping[str, bool | None]]
    unit: ClassVar[str]
    reference: ClassVar[str]

    def __call__(self, model: Any, x: Array, heatmap: Array, target: Classes, **given: Any) -> dict[str, Tensor]:
        """Measure heatmaps (N, H, W) of the classes `target` (N,) for inputs x (N, C, H, W): values (N,) by row."""
        ...


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
