"""Small networks for explainers, and a record of all that an explainer could leave behind on one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(nn.Module):
    """All modules known to every explainer, one ReLU in place and used twice, no residual join."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layer4 = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layer4(self.relu(self.conv(x))))
        return self.fc(self.pool(x).flatten(1))


class Residual(nn.Module):
    """A join, batch normalisation and functional ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = (x + self.conv(x)).relu_()
        return self.fc(x.mean((2, 3)))


class FailsWhenDifferentiated(Plain):
    """Its forward pass is well, its backward pass raises."""

    def forward(self, x: Tensor) -> Tensor:
        return Raise.apply(super().forward(x))


class Raise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError("no way back")


class FailsAtTheSecondCall(Plain):
    """Its forward pass raises the second time, counted across copies."""

    calls: list[int]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        if self.calls[0] > 1:
            raise RuntimeError("enough")
        return super().forward(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> FailsAtTheSecondCall:
        memo[id(self.calls)] = self.calls
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        import copy

        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def made(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A network with a user's traces on it: gradients, a frozen weight, a hook, a patched forward."""
    torch.manual_seed(seed)
    model = kind().eval()
    if isinstance(model, FailsAtTheSecondCall):
        model.calls = [0]
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    model.fc.bias.requires_grad_(False)
    model.fc.bias.grad = None
    model.fc.register_forward_hook(_seen)
    model.note = "the user's"
    return model


def _seen(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook that only looks."""


_HOOKS = [name for name in vars(nn.Module()) if "hook" in name]


def record(model: nn.Module) -> dict[str, Any]:
    """All that could be left behind, as plain values to compare."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name, "attributes"] = sorted(vars(module))
        found[name, "training"] = module.training
        found[name, "inplace"] = getattr(module, "inplace", None)
        found[name, "forward"] = module.forward.__func__
        for hooks in _HOOKS:
            value = getattr(module, hooks)
            found[name, hooks] = list(value.items()) if isinstance(value, dict) else value
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        found[name, "identity"] = (id(value), value.data_ptr(), value.requires_grad)
        found[name, "value"] = value.detach().clone().tolist()
        found[name, "grad"] = None if value.grad is None else value.grad.tolist()
    return found
