"""Send a given relevance backwards through one layer, by the public interface alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import relprop
from relprop.core.rules import Rule


def inject(relevance: Tensor) -> Rule:
    """A rule that sends on `relevance` (N, J), whatever it receives."""
    return Rule("inject", lambda step, received: relevance.reshape(step.shapes[0]), frozenset(), conserves=False)


class Through(nn.Module):
    """x -> layer -> two scores."""

    def __init__(self, layer: nn.Module, outputs: int, *, positive: bool = False) -> None:
        super().__init__()
        self.layer, self.positive = layer, positive
        self.head = nn.Linear(outputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.positive:  # so that the rule may know that its input is nowhere negative
            x = torch.relu(x)
        return self.head(self.layer(x).flatten(1))


def through(layer: nn.Module, x: Tensor, relevance: Tensor, rule: Rule, *, positive: bool = False) -> Tensor:
    """Relevance of `x` (N, ...) when `relevance` (N, ...) arrives at the output of `layer`."""
    net = Through(layer, relevance[0].numel(), positive=positive).to(x.dtype).eval()
    composite = relprop.paper(first="image").override(names={"layer": rule, "head": inject(relevance)})
    return relprop.LRP(net, composite)(x, target=0).relevance
