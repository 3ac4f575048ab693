"""Class activation maps: Grad-CAM by captum, LayerCAM and Score-CAM by torchcam, and Score-CAM as released."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.core.capture import Model, last_step
from relprop.core.result.quantize import quantize
from relprop.core.targets.start import probabilities_of
from relprop.errors import InputError, UsageError, require
from relprop.explainers.base import EXPLAINERS, prepare, quiet, resize


@EXPLAINERS.register("grad-cam")
@dataclass(frozen=True)
class GradCam:
    """Feature maps of the last stage, weighted by their mean gradient (Selvaraju et al. 2017), by captum."""

    layer: str | None = None  # module path; by default the last one that ends in a map (`layer4` of a ResNet)
    relu: bool = True  # keep the positive part alone, as published. Makes ties at 0
    # levels of Heat Quantization (the release's edges) of the small map, before it is resized: the order of the
    # release. The step `quantize` of `POST` comes after resizing
    quantize: int | None = None

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        layer_attr = require("captum.attr", "eval")
        twin, x, target = prepare(model, x, target)
        layer = _find_layer(twin, x, self.layer)
        with quiet():
            found = layer_attr.LayerGradCam(twin, twin.get_submodule(layer)).attribute(
                x, target=target, relu_attributions=self.relu
            )
        return _finish(found[:, 0], x, self.quantize)


@EXPLAINERS.register("layer-cam")
@dataclass(frozen=True)
class LayerCam:
    """Feature maps of a stage, each value weighted by its own positive gradient (Jiang et al. 2021), by torchcam."""

    layer: str | None = None  # module path; by default the last one that ends in a map (`layer4` of a ResNet)
    quantize: int | None = None  # as in `grad-cam`

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        methods = require("torchcam.methods", "eval")
        twin, x, target = prepare(model, x, target)
        layer = _find_layer(twin, x, self.layer)
        with quiet(), torch.enable_grad(), methods.LayerCAM(twin, layer) as layer_cam:
            found = layer_cam(target.tolist(), twin(x.requires_grad_()), normalized=False)[0]
        return _finish(found, x, self.quantize)


@EXPLAINERS.register("score-cam")
@dataclass(frozen=True)
class ScoreCam:
    """Feature maps of the last stage, weighted by the score of the picture seen through them (Wang et al. 2020).

    Runs the network once for every channel of the layer.
    """

    layer: str | None = None  # module path; by default the last one that ends in a map (`layer4` of a ResNet)
    relu: bool = True  # keep the positive part alone, as published
    quantize: int | None = None  # as in `grad-cam`
    batch: int = 64  # masked pictures at once
    # "softmax": by torchcam, over the channels, of how much each raises the logit, as published; "probability": that of
    # the class for each masked picture, times the map at the picture's size, as the paper's release has it. Channels
    # that are flat are left out then, which saves their passes
    weights: Literal["softmax", "probability"] = "softmax"
    amp: bool = False  # run the masked pictures in bfloat16

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        twin, x, target = prepare(model, x, target)
        layer = _find_layer(twin, x, self.layer)
        with quiet(), torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            if self.weights == "probability":
                found = self._by_probability(twin, layer, x, target)
            else:
                found = self._by_softmax(twin, layer, x, target)
        return _finish(found, x, self.quantize)

    def _by_softmax(self, twin: nn.Module, layer: str, x: Tensor, target: Tensor) -> Tensor:
        methods = require("torchcam.methods", "eval")
        with methods.ScoreCAM(twin, layer, batch_size=self.batch) as score_cam:
            score_cam._relu = self.relu  # torchcam has no public switch
            found: Tensor = score_cam(target.tolist(), twin(x), normalized=False)[0]
        return found

    def _by_probability(self, twin: nn.Module, layer: str, x: Tensor, target: Tensor) -> Tensor:
        """Σ_k p(class | x masked by map k) · map k, all maps at the size of the picture: (N, H, W)."""
        found, end = [], last_step(twin, x[:1])
        for one, maps, label in zip(x, _maps(twin, layer, x), target.tolist(), strict=True):
            large = F.interpolate(maps[None].float(), tuple(x.shape[-2:]), mode="bilinear", align_corners=False)[0]
            low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
            total = torch.zeros_like(large[0])
            for part in torch.split((high > low).flatten().nonzero().flatten(), self.batch):
                masks = (large[part] - low[part]) / (high[part] - low[part])
                scores = probabilities_of(twin(one * masks[:, None]).float(), end)[:, label]
                total += torch.einsum("k,khw->hw", scores, large[part])
            found.append(total.clamp(min=0) if self.relu else total)
        return torch.stack(found)


def _maps(twin: nn.Module, layer: str, x: Tensor) -> Tensor:
    """Output of a layer, (N, K, h, w)."""
    kept: list[Tensor] = []
    hook = twin.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))
    twin(x)
    hook.remove()  # of a replica, which nobody sees if the forward pass fails
    return kept[-1]


def _finish(small: Tensor, x: Tensor, levels: int | None) -> Tensor:
    small = small.detach().float()
    return resize(small if levels is None else quantize(small, levels, "release"), x.shape[-2:])


def _find_layer(model: nn.Module, x: Tensor, asked: str | None) -> str:
    """Path of the module to read: the one asked for, or the last that ends in a map of more than one pixel."""
    names = [name for name, _ in model.named_modules() if name]
    if asked is not None:
        if asked in names:
            return asked
        near = difflib.get_close_matches(asked, names, n=3)
        raise UsageError(f"the model has no layer {asked!r}; near are: {', '.join(near) or ', '.join(names[:8])}")
    ended = [*map_layers(model, x)]
    if not ended:
        raise InputError(
            f"no layer of {type(model).__name__} ends in a map (N, C, h, w) of more than one pixel for inputs "
            f"{tuple(x.shape[1:])}; class activation maps need one: name it with layer=..., or use lrp"
        )
    return ended[-1]


def map_layers(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Channels of each module that ends in a map of more than one pixel, by its path; the last to end comes last."""
    ended: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def see(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
                ended.pop(name, None)
                ended[name] = output.shape[1]

        return see

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return ended
