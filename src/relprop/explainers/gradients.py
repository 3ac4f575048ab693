"""Gradient methods, by captum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from relprop.core.capture import Model
from relprop.errors import UsageError, require
from relprop.explainers.base import EXPLAINERS, ByChannel, Channels, prepare, quiet

_PIXELS = 1 << 22  # values of input handed to the model at once: 27 pictures of 3 x 224 x 224


def _attribute(method: Any, x: Tensor, target: Tensor, **options: Any) -> Tensor:
    with quiet():
        found: Tensor = method.attribute(x, target=target, **options)
    return found


@EXPLAINERS.register("integrated-gradients")
@dataclass(frozen=True)
class IntegratedGradients(ByChannel):
    """Gradient times input, averaged on the way from zero to the picture (Sundararajan et al. 2017), by captum.

    Zero is the network's own: the mean colour, where inputs are normalised. So runs the release.
    """

    steps: int = 50  # points of the Gauss-Legendre quadrature
    channels: Channels = "sum"  # "sum" or "red"

    def attribute(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, C, H, W)."""
        attr = require("captum.attr", "eval")
        twin, x, target = prepare(model, x, target)
        at_once = max(len(x), _PIXELS // x[0].numel())  # bounds the memory: captum would hold all N x steps pictures
        return _attribute(attr.IntegratedGradients(twin), x, target, n_steps=self.steps, internal_batch_size=at_once)


@EXPLAINERS.register("input-x-gradient")
@dataclass(frozen=True)
class InputXGradient(ByChannel):
    """Gradient times input (Shrikumar et al. 2016), by captum."""

    channels: Channels = "sum"

    def attribute(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, C, H, W)."""
        attr = require("captum.attr", "eval")
        twin, x, target = prepare(model, x, target)
        return _attribute(attr.InputXGradient(twin), x, target)


@EXPLAINERS.register("guided-backprop")
@dataclass(frozen=True)
class GuidedBackprop(ByChannel):
    """Gradient that passes a ReLU only where it is positive (Springenberg et al. 2015), by captum.

    captum sees `nn.ReLU` modules alone, and would return the plain gradient for a network that calls `F.relu` or uses
    ReLU6; here every spelling is led through one module that it sees. A network without any is an error.
    """

    channels: Channels = "sum"

    def attribute(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, C, H, W)."""
        attr = require("captum.attr", "eval")
        twin, x, target = prepare(model, x, target)
        guided = _OneReLU(twin)
        found = _attribute(attr.GuidedBackprop(guided), x, target)
        if not guided.calls:
            raise UsageError(
                f"guided-backprop needs a network with ReLU or ReLU6, and {type(twin).__name__} calls neither: "
                "its guided gradient is the plain one; use input-x-gradient"
            )
        return found


class _OneReLU(nn.Module):
    """Runs a network with each of its ReLUs, however it is spelled, replaced by one module.

    A ReLU module of the network calls `F.relu`, so it is guided twice, which changes nothing: the second time, its
    gradient is positive already.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.calls = 0
        self._network = [network]  # not a child: captum would hook its ReLUs as well

    def forward(self, x: Tensor) -> Any:
        with _Rerouted(self._through):
            return self._network[0](x)

    def _through(self, value: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.relu(value)
        return result


class _Rerouted(TorchFunctionMode):
    """Lead relu and relu6, as functions or methods, through `relu`."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RELU:
            return self.relu(args[0] if args else kwargs["input"])
        if func in _CLIPPED:
            bound = _bounds(func, *args, **kwargs)
            if bound[0] == 0:
                return self.relu(args[0] if args else kwargs["input"]).clamp(max=bound[1])
        return func(*args, **kwargs)


_ATEN = torch.ops.aten  # in exported programs
_RELU = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, _ATEN.relu.default, _ATEN.relu_.default}
_CLIPPED = {F.relu6, F.hardtanh, F.hardtanh_, _ATEN.hardtanh.default, _ATEN.hardtanh_.default}


def _bounds(
    func: Any, input: Any = None, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> tuple[float, float]:
    return (0.0, 6.0) if func is F.relu6 else (min_val, max_val)
