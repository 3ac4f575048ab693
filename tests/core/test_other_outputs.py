"""Segmentation, embeddings, regression and detection scores of torchvision's own heads, on small backbones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

from core_detectors import detector
from core_resnet import ResNet

import relprop
from relprop.core.targets.target import Mask, Similarity, Value


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after training: means and variances of their own."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images(size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def small_resnet(classes: int = 6) -> ResNet:
    return ResNet(8, 1, classes)


def segmentation(name: str) -> nn.Module:
    from torchvision.models import segmentation
    from torchvision.models._utils import IntermediateLayerGetter

    torch.manual_seed(0)
    backbone = IntermediateLayerGetter(small_resnet(), {"layer2": "out", "layer1": "aux"})
    if name == "fcn":
        heads = [segmentation.fcn.FCNHead(channels, 4) for channels in (16, 8)]
        return with_statistics(segmentation.FCN(backbone, *heads))
    head = segmentation.deeplabv3.DeepLabHead(16, 4, [2, 4, 6])
    return with_statistics(segmentation.DeepLabV3(backbone, head))


@pytest.mark.parametrize("name", ["fcn", "deeplab"])
def test_a_class_over_a_region_of_a_segmentation(name):
    model, x = segmentation(name), images()
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[4:20, 8:] = True
    lrp = relprop.LRP(model, strict=True)
    result = lrp(x, target=Mask(2, region))
    expected = model(x)["out"].softmax(1)[:, 2][:, region].mean(1).detach()
    torch.testing.assert_close(result.score, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.heatmap.sum((1, 2)), expected, rtol=1e-5, atol=0)
    assert result.ledger.absorbed == 0
    alone = lrp(x[1:], target=Mask(2, region))
    torch.testing.assert_close(alone.heatmap[0], result.heatmap[1], rtol=1e-4, atol=1e-8)


def test_the_similarity_of_two_images_is_their_cosine():
    model = small_resnet()
    model.fc = nn.Identity()
    model, x = with_statistics(model), images()
    with torch.no_grad():
        embeddings = model(x)
    result = relprop.LRP(model, strict=True)(x[:1], target=Similarity(embeddings[1]))
    cosine = torch.cosine_similarity(embeddings[:1], embeddings[1:])
    torch.testing.assert_close(result.score, cosine)
    torch.testing.assert_close(result.heatmap.sum((1, 2)), cosine, rtol=1e-5, atol=0)
    assert (result.target.tolist(), result.what) == ([-1], "similarity")
    both = relprop.LRP(model, chunk=1)(x, target=Similarity(embeddings.flip(0)))  # each with the other, in two parts
    torch.testing.assert_close(both.score, cosine.expand(2))


def test_several_numbers_of_a_regression():
    model, x = with_statistics(small_resnet(3)), images()
    result = relprop.LRP(model, strict=True)(x, target=Value(2))
    torch.testing.assert_close(result.heatmap.sum((1, 2)), model(x)[:, 2].detach(), rtol=1e-4, atol=1e-6)


class Logits(nn.Module):
    """What a detector's boxes score, before any of them is chosen: (N, boxes, classes)."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x):
        return self.head([*self.backbone(x).values()])["cls_logits"]


def test_the_score_of_a_box_of_a_detector():
    model, x = Logits(detector("retinanet")).eval(), images()
    result = relprop.LRP(model, strict=True)(x, target=lambda y: y[:, 5, 1])
    torch.testing.assert_close(result.score, model(x)[:, 5, 1].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.heatmap.sum((1, 2)), result.score, rtol=1e-5, atol=0)
    assert result.ledger.absorbed == 0


class EmptyParts(nn.Module):
    """A prefix of no tokens is cut off, joined again, and summed, as vision transformers do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 3)
        self.double().eval()

    def forward(self, x):
        h = self.conv(x).relu()
        turned = torch.cat([h[:, :, :0].permute(2, 0, 1, 3), h.permute(2, 0, 1, 3)]).permute(1, 2, 0, 3)
        prefix = h[:, :, :0].permute(2, 0, 1, 3).reshape(0, len(x), 4, 4)
        return self.fc(turned.mean((2, 3)) + prefix.sum((0, 3)))


def test_values_without_numbers_take_no_part():
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = EmptyParts()
    plain = nn.Sequential(model.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    result = relprop.explain(model, x)
    assert result.ledger.gap <= 1e-14
    torch.testing.assert_close(result.relevance, relprop.explain(plain, x).relevance)
    torch.testing.assert_close(relprop.explain(model, x[:1]).relevance, result.relevance[:1])
