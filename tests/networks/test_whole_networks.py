"""Whole networks against their dense twins of `network_twins`, in float64."""

from __future__ import annotations

import network_twins as slow
import pytest
import torch
from network_twins_swin import explain_swin
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


def with_statistics(net: nn.Module) -> nn.Module:
    """In float64, with norms and scales that are not those of an untrained network."""
    for name, tensor in net.state_dict().items():
        if "running_var" in name:
            nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.is_floating_point() and (tensor.dim() == 1 or "layer_scale" in name):
            nn.init.normal_(tensor, 0.3, 0.5)
    return net.double().eval()


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(4, 6, 2), CNBlockConfig(6, None, 1)], stochastic_depth_prob=0.0, num_classes=3)


def small_efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    settings = [MBConvConfig(1, 3, 1, 4, 4, 1, 1, 1), MBConvConfig(2, 3, 2, 4, 6, 2, 1, 1)]
    return EfficientNet(settings, dropout=0.2, num_classes=3, last_channel=8)


def small_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    # four by four tokens in windows of two, the second block's shifted; then two by two in one window
    return SwinTransformer([4, 4], 4, [2, 1], [2, 2], [2, 2], mlp_ratio=2.0, stochastic_depth_prob=0.0, num_classes=3)


@pytest.mark.parametrize(
    ("make", "explain"),
    [
        (small_convnext, slow.explain_convnext),
        (small_efficientnet, slow.explain_efficientnet),
        (small_swin, explain_swin),
    ],
    ids=["ConvNeXt", "EfficientNet", "Swin"],
)
def test_other_families_equal_their_dense_twins(make, explain):
    torch.manual_seed(0)
    net, x = with_statistics(make()), torch.randn(2, 3, 16, 16).double()
    result = relprop.LRP(net, strict=True, rtol=1e-12)(x, target=[0, 2])
    for n, target in enumerate((0, 2)):
        expected = explain(net, x[n], target)
        torch.testing.assert_close(result.relevance[n], expected, rtol=1e-10, atol=1e-12)
        assert expected.sum().item() == pytest.approx(result.score[n].item(), rel=1e-12)
