"""The registries of explainers and of post-processing, and copies of the model for libraries that edit models."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.core.capture import Model, require_evaluation_mode, unwrap
from relprop.core.targets.start import read_target, require_scores
from relprop.errors import InputError, ModelError
from relprop.explainer import Explainer, Post
from relprop.registry import Registry

Channels = Literal["sum", "red"]


class ByChannel:
    """An explainer that attributes to every value of the picture, and reads a map off that by its `channels`.

    Two that differ in `channels` alone share their attribution: see `relprop.evaluation.compute`.
    """

    channels: Channels

    def attribute(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, C, H, W)."""
        raise NotImplementedError

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        return reduce_channels(self.attribute(model, x, target), self.channels)


EXPLAINERS: Registry[Explainer] = Registry("explainer")
POST: Registry[Post] = Registry("post-processing")


def reduce_channels(attribution: Tensor, channels: Channels) -> Tensor:
    """(N, C, H, W) -> (N, H, W): the sum over channels, or the first alone, as the release's metric reads it."""
    return (attribution.sum(1) if channels == "sum" else attribution[:, 0]).detach().float()


def resize(heatmap: Tensor, size: torch.Size) -> Tensor:
    """Bring maps (N, h, w) to `size` bilinearly."""
    if heatmap.shape[-2:] == size:
        return heatmap
    return F.interpolate(heatmap[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]


def replica(model: Model, *, share: bool = True) -> nn.Module:
    """Make a second model that a library may hook and edit: same modules anew, same weights.

    Weights and buffers are new tensors on the same memory (`share`) or on their own. They need no gradient, and
    in-place activations work out of place, which autograd and hooks want; the function computed is the same.

    Raises:
        CaptureError: the model is in training mode.
        ModelError: it cannot be copied.
    """
    model = unwrap(model)
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    else:
        require_evaluation_mode(model)
    memo: dict[int, object] = {}
    for weight in model.parameters():
        memo[id(weight)] = nn.Parameter(weight.detach() if share else weight.detach().clone(), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach() if share else buffer.detach().clone()
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # deepcopy runs code of the model's own classes
        raise ModelError(
            f"{type(model).__name__} cannot be copied, and this explainer works on a copy so that the model stays "
            f"untouched; copy.deepcopy says: {error}"
        ) from error
    for module in twin.modules():
        if getattr(module, "inplace", None) is True:
            module.inplace = False  # type: ignore[assignment]
    return twin


def prepare(model: Model, x: Tensor, target: Tensor, *, share: bool = True) -> tuple[nn.Module, Tensor, Tensor]:
    """A `replica` of the model, a copy of the input that a library may mark, and the classes to explain, (N,) int64.

    Raises:
        InputError: x is not (N, C, H, W) floating point, or the model does not return (N, classes).
        TargetError: no such class, or not one for each picture.
    """
    twin = replica(model, share=share)
    if x.dim() != 4 or not x.is_floating_point():
        raise InputError(f"x must be pictures (N, C, H, W), floating point; it is {tuple(x.shape)}, {x.dtype}")
    x = x.detach().clone()
    with torch.no_grad():
        scores = require_scores(twin(x[:1]))
    return twin, x, read_target(target, scores[:1].expand(len(x), -1))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the warnings of a library about its own habits (hooks it sets, gradients it asks for)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
