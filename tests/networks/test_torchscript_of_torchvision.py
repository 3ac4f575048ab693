"""TorchScript of torchvision's networks is explained as the model in Python; small ones: `test_torchscript`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from core_scripted import (
    KINDS,
    images,
    require_same,
    require_the_residual_network,
    require_the_same_from_a_file,
    scripted,
)

models = pytest.importorskip("torchvision").models

pytestmark = pytest.mark.slow


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return models.resnet18(num_classes=5).eval()


@pytest.mark.parametrize(("kind", "dtype", "rtol"), KINDS)
def test_torchscript_gives_what_the_python_model_gives(kind, dtype, rtol):
    require_the_residual_network(resnet18().to(dtype), kind, rtol, images().to(dtype), joins=8)


@pytest.mark.parametrize("kind", ["trace", "script", "frozen"])
@pytest.mark.parametrize("gradients", [False, True])
def test_torchscript_that_was_saved_and_loaded_again(kind, gradients, tmp_path):
    require_the_same_from_a_file(resnet18().requires_grad_(gradients), kind, images(), tmp_path)


@pytest.mark.parametrize("kind", ["trace", "script"])
def test_scripted_attention(kind):
    torch.manual_seed(0)
    net = models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(net.heads.head.weight, std=0.1)
    net, x = net.double().eval(), images(1, 16).double()
    require_same(relprop.explain(scripted(net, x, kind), x), relprop.explain(net, x))
