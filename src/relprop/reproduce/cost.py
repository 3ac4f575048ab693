"""What a table costs, before it is measured: forward passes, and the time they take here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from relprop.evaluation.setup import load
from relprop.explainers import EXPLAINERS, POST
from relprop.explainers.cam import map_layers
from relprop.metrics.forward import Forward, callable_model, first_guess
from relprop.metrics.masking import pixel_counts
from relprop.metrics.protocols import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relprop.evaluation import Plan
    from relprop.models import LoadedModel
    from relprop.reproduce.setting import Setting

_BACKWARD = 3
"""A forward and a backward pass take as long as three forward passes; a backward pass of relevance about as long."""
_WARM, _TIMED = 1, 3


@dataclass(frozen=True)
class Network:
    """What is to be known of a model before it is used."""

    resnet50: bool  # whether its weights have the names and shapes of the paper's network, the classes apart
    side: int  # of its square input, in pixels
    channels: int  # of the map that class activation maps read; 0 where there is none
    seconds: float  # of one forward pass of one picture, as masked pictures are scored


def look(setting: Setting, at: int = 0) -> Network:
    """Load model number `at` of a setting and measure it, with the threads of one worker.

    Raises:
        ModelError: it cannot be loaded.
    """
    spec = setting.models[at]
    loaded = load(spec, setting.device)
    side = loaded.preprocess.size
    x = torch.zeros(1, loaded.preprocess.channels, side, side, device=setting.device)
    trained = not spec.name.startswith("random:")
    return Network(
        trained and is_resnet50(loaded), side, _channels(loaded, x, setting.cam_layer), _seconds(loaded, x, setting)
    )


def is_resnet50(loaded: LoadedModel) -> bool:
    """Whether a model has the weights of torchvision's ResNet-50, by name and shape; the last layer may differ."""
    from torchvision.models import resnet50

    if not isinstance(loaded.model, torch.nn.Module):
        return False
    with torch.device("meta"):
        wanted = _shapes(resnet50(weights=None))
    return _shapes(loaded.model) == wanted


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.named_parameters() if not name.startswith("fc.")}


def _channels(loaded: LoadedModel, x: torch.Tensor, layer: str | None) -> int:
    """Channels of the last module that ends in a map of more than one pixel, or of `layer`; 0 where there is none."""
    found = map_layers(loaded.model, x) if isinstance(loaded.model, torch.nn.Module) else {}
    return found.get(layer, 0) if layer is not None else next(reversed(found.values()), 0)


def _seconds(loaded: LoadedModel, x: torch.Tensor, setting: Setting) -> float:
    """Seconds a picture in batches as they are scored, the first of them not counted."""
    batch = first_guess(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(_WARM + _TIMED):
            if number == _WARM:
                began = time.perf_counter()
            # scores are numbers of Python at the end, so the device has finished
            Forward(amp=setting.amp, batch=batch).scores(
                callable_model(loaded.model),
                lambda start, stop: x.expand(stop - start, -1, -1, -1),
                torch.zeros(batch, dtype=torch.int64, device=x.device),
                x,
            ).sum().item()
    finally:
        torch.set_num_threads(threads)
    return (time.perf_counter() - began) / (_TIMED * batch)


def passes(plan: Plan, network: Network) -> int:
    """Forward passes for one picture of a plan, an upper bound: the model's prediction, explainers and curves.

    Pictures that several maps of a plan share are counted once a map, and channels that are flat are counted.
    """
    explainers = {spec.replace(":channels=red", "") for spec in plan.explainers}  # one attribution serves both readings
    return 1 + sum(_of_explainer(spec, network) for spec in explainers) + sum(_of_curves(plan, network))


def _of_explainer(spec: str, network: Network) -> int:
    explainer: Any = EXPLAINERS.build(spec)
    name = spec.split(":")[0]
    if name == "score-cam":
        return network.channels + 1
    if name == "rise":
        return int(explainer.masks)
    if name == "integrated-gradients":
        return _BACKWARD * int(explainer.steps)
    return 0 if name in ("constant", "random", "gaussian", "sobel") else _BACKWARD


def _of_curves(plan: Plan, network: Network) -> Iterable[int]:
    """Different pictures of each curve: of a map of L levels at most L where ties change together."""
    for entry in plan.only:
        where, explainer, post = entry.split(" ")
        protocol = PROTOCOLS.build(where)
        step = protocol.pixels_a_step(network.side, network.side) if plan.step is None else plan.step
        points = len(pixel_counts(network.side**2, step)) + int(protocol.ends)
        if protocol.ties == "together":
            levels = 1 if explainer == "constant" else _levels(post)
            points = points if levels is None else min(points, levels)
        yield 2 * points


def _levels(post: str) -> int | None:
    step: Any = POST.build(post)
    levels: int | None = getattr(step, "levels", None)
    return None if levels is None else levels + int(step.edges == "equation")
