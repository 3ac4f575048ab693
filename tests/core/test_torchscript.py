"""TorchScript is explained as the model in Python that it was made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from core_resnet import ResNet
from core_scripted import (
    KINDS,
    images,
    require_same,
    require_the_residual_network,
    require_the_same_from_a_file,
    scripted,
)
from tiny import Tiny


def one_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


# what `torch.jit.script` makes is in the quick run below, and in `test_torchscript_of_attention`
@pytest.mark.parametrize(
    ("kind", "dtype", "rtol"),
    [kind if kind[0] != "script" else pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_torchscript_gives_what_the_python_model_gives(kind, dtype, rtol):
    net = seeded(lambda: ResNet(4, (1, 1, 1, 1), 5)).to(dtype)
    require_the_residual_network(net, kind, rtol, images().to(dtype), joins=4)


@pytest.mark.parametrize("kind", ["trace", "script", "frozen"])
@pytest.mark.parametrize("gradients", [False, True])
def test_torchscript_that_was_saved_and_loaded_again(kind, gradients, tmp_path):
    require_the_same_from_a_file(seeded(one_convolution).requires_grad_(gradients), kind, images(), tmp_path)


@pytest.mark.parametrize("branches", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_part_that_is_torchscript(branches):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.fc = Tiny(), nn.Linear(5, 3)

        def forward(self, x):
            h = self.inner(x).relu()
            return self.fc(-h if branches and x.mean() > 1e9 else h)

    torch.manual_seed(0)
    outer, x = Outer().eval().double(), images(3, 8).double()
    plain = Outer().eval().double()
    plain.load_state_dict(outer.state_dict())
    outer.inner = scripted(outer.inner, x, "trace")
    lrp = relprop.LRP(outer)
    require_same(lrp(x), relprop.explain(plain, x))
    assert {"inner.conv1", "inner.bn2", "inner.add", "fc"} <= {node.name for node in lrp.graph(x)}
