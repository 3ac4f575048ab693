"""Whole networks against their dense twins of `core_whole`, in float64."""

from __future__ import annotations

import core_whole as slow
import pytest
import torch
from torch import nn

import relprop

pytest.importorskip("torchvision")


def test_a_vit_equals_its_dense_twin():
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 12, num_classes=4).double().eval()
    nn.init.normal_(net.heads.head.weight)
    nn.init.normal_(net.class_token)
    x = torch.randn(2, 3, 8, 8).double()
    result = relprop.LRP(net, strict=True, rtol=1e-12)(x, target=[1, 3])
    for n, target in enumerate((1, 3)):
        expected = slow.explain_vit(net, x[n], target)
        torch.testing.assert_close(result.relevance[n], expected, rtol=1e-10, atol=1e-12)
        assert expected.sum().item() == pytest.approx(result.score[n].item(), rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_with_squeeze_and_excitation_equals_its_dense_twin(seed):
    net = slow.SEResNet(seed)
    x = torch.randn(2, 3, 8, 8).double()
    result = relprop.LRP(net, strict=True, rtol=1e-12)(x, target=[0, 2])
    for n, target in enumerate((0, 2)):
        expected = slow.explain_se_resnet(net, x[n], target)
        torch.testing.assert_close(result.relevance[n], expected, rtol=1e-10, atol=1e-12)
        assert expected.sum().item() == pytest.approx(result.score[n].item(), rel=1e-12)
