"""TorchScript is explained as the model in Python that it was made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

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


class Attention(nn.Module):
    """A transformer of one block on patches, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), h], 1)
        normed = self.norm1(h)
        h = h + self.attention(normed, normed, normed, need_weights=False)[0]
        h = h + self.mlp(self.norm2(h))
        return self.head(h[:, 0])


def one_convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize(("kind", "dtype", "rtol"), KINDS)
def test_torchscript_gives_what_the_python_model_gives(kind, dtype, rtol):
    net = seeded(lambda: ResNet(4, (1, 1, 1, 1), 5)).to(dtype)
    require_the_residual_network(net, kind, rtol, images().to(dtype), joins=4)


@pytest.mark.parametrize("kind", ["trace", "script", "frozen"])
@pytest.mark.parametrize("gradients", [False, True])
def test_torchscript_that_was_saved_and_loaded_again(kind, gradients, tmp_path):
    require_the_same_from_a_file(seeded(one_convolution).requires_grad_(gradients), kind, images(), tmp_path)


@pytest.mark.parametrize("kind", ["trace", "script"])
def test_scripted_attention(kind):
    net, x = seeded(Attention).double(), images(1, 16).double()
    require_same(relprop.explain(scripted(net, x, kind), x), relprop.explain(net, x))


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
