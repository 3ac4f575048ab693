"""The paper's method against an implementation that shares no line with ours, in float64."""

from __future__ import annotations

import pytest
import torch
from core_slow import explain_resnet
from torch import nn

import relprop
from core_resnet import Block, Bottleneck, ResNet


def network(block, depths, *, shift: float, zero: bool = False) -> ResNet:
    torch.manual_seed(len(depths) + sum(depths))
    net = ResNet(16, depths, 7, block).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, shift, 0.3)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    for module in net.modules():
        if zero and isinstance(module, Block):  # as `zero_init_residual` of torchvision
            module.bn2.weight.data.zero_()
    return net


@pytest.fixture(scope="module")
def nets():
    return {
        "basic": network(Block, (2, 1, 1, 1), shift=0.0),
        "basic, dead units": network(Block, (1, 1, 1, 1), shift=-0.8),
        "bottleneck, grouped": network(Bottleneck, (2, 1, 1, 1), shift=-0.2),
        "zero init": network(Block, (1, 1, 1, 1), shift=0.0, zero=True),
    }


@pytest.mark.parametrize(
    ("name", "how", "identity"),
    [
        ("basic", "ratio", True),
        ("basic", "symmetric", True),
        ("basic, dead units", "ratio", True),
        ("basic, dead units", "symmetric", False),
        ("bottleneck, grouped", "ratio", True),
        ("bottleneck, grouped", "ratio", False),
        ("zero init", "ratio", True),
        ("zero init", "symmetric", True),
    ],
)
def test_paper_equals_the_slow_reference(nets, name, how, identity):
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slow = explain_resnet(nets[name], x, how, identity)
    fast = relprop.explain(nets[name], x, composite=relprop.paper(split=how, identity=identity)).relevance
    assert (fast - slow).abs().sum() / slow.abs().sum() < 1e-11
