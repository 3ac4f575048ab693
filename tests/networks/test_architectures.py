"""Networks that people use, with random weights: the books balance at every layer."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import relprop
from core_balance import explain_balanced

# their deeper and wider sisters are in benchmarks/conservation.py
TIMM = ("resnet50d", "resnetv2_50", "tf_efficientnet_lite0")
LARGE = ("resnet50", "resnext50_32x4d", "vgg16_bn", "densenet121", "googlenet", *TIMM)


def slow(*values: object) -> object:
    """Parameters of a test for which it takes its time."""
    return pytest.param(*values, marks=pytest.mark.slow)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in TIMM:
        timm = pytest.importorskip("timm", reason="timm is not installed")
        return timm.create_model(name).eval()
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(**options).eval()


def settle(net: nn.Module, x: torch.Tensor, shift: float = 0.0) -> nn.Module:
    """Give batch norms the statistics of `x`, so that activations neither vanish nor explode, then shift them."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        net(x)
        for norm in norms:
            norm.eval()
            norm.bias += 0.1 * torch.randn_like(norm.bias) + shift
    return net


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 32), ("mobilenet_v2", 32), *(slow(name, 64) for name in (*LARGE, "mobilenet_v2"))]
)
def test_every_layer_balances_in_float32(name, size):
    x = images(size=size)
    net = settle(build(name), x)
    result = explain_balanced(net, x, 1e-5)
    assert result.heatmap.std() > 0
    if name in ("resnet50", "mobilenet_v2") and size == 64:
        explain_balanced(net.double(), x.double(), 1e-12)
        explain_balanced(net, x.double(), 1e-12, split="symmetric", identity=False)


@pytest.mark.parametrize("name", [slow("resnet18"), slow("tf_efficientnet_lite0")])  # small ones: `test_slow_reference`
def test_many_dead_units(name):
    x = images(size=64)
    net = settle(build(name), x, shift=-1.2)
    explain_balanced(net, x, 1e-5)
    explain_balanced(net.double(), x.double(), 1e-12)


@pytest.mark.parametrize("name", [slow("resnet18"), slow("resnet50")])  # a small one: `test_slow_reference`
def test_zero_init_residual(name):
    torch.manual_seed(0)
    x = images(size=64)
    net = getattr(torchvision.models, name)(zero_init_residual=True).eval()
    for split in ("ratio", "symmetric"):
        explain_balanced(net, x, 1e-5, split=split)


@pytest.mark.slow  # small ones, of every block: `test_blocks`
def test_batches_equal_single_images():
    x = images(3, 64)
    net = settle(build("resnet18"), x)
    nn.init.normal_(net.fc.weight)
    together = relprop.explain(net, x)
    assert len(set(together.target.tolist())) > 1  # of several classes
    lrp = relprop.LRP(net)
    for n in range(3):
        alone = lrp(x[n : n + 1]).relevance[0]
        assert (alone - together.relevance[n]).abs().sum() / alone.abs().sum() <= 1e-5
