"""Torchvision's segmentation networks as they are: a class over some pixels, over its own pixels, at one pixel."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

import relprop
from core_resnet import ResNet, with_statistics
from relprop.core.targets.target import Mask

segmentation = pytest.importorskip("torchvision.models.segmentation")

SIZE, CLASSES = 32, 4
GAP = {torch.float32: 1e-6, torch.float64: 1e-12}


@cache
def network(name: str, dtype: torch.dtype) -> nn.Module:
    """Random weights, and batch norms as after training; it is left as it is."""
    torch.manual_seed(0)
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES)
    return with_statistics(model).to(dtype)


@cache
def small(name: str = "fcn") -> nn.Module:
    """The heads of FCN or of DeepLab on two stages of a narrow ResNet, in float64."""
    from torchvision.models._utils import IntermediateLayerGetter

    torch.manual_seed(0)
    backbone = IntermediateLayerGetter(ResNet(8, (1, 1, 1, 1), CLASSES), {"layer2": "out", "layer1": "aux"})
    if name == "fcn":
        heads = [segmentation.fcn.FCNHead(channels, CLASSES) for channels in (16, 8)]
        return with_statistics(segmentation.FCN(backbone, *heads)).double()
    head = segmentation.deeplabv3.DeepLabHead(16, CLASSES, [2, 4, 6])
    return with_statistics(segmentation.DeepLabV3(backbone, head)).double()


def images(dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)


def region() -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[6:20, 8:26] = True
    return mask


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("fcn_resnet50", torch.float32, marks=pytest.mark.slow),
        pytest.param("fcn_resnet50", torch.float64, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet50", torch.float32, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet50", torch.float64, marks=pytest.mark.slow),
        pytest.param("deeplabv3_mobilenet_v3_large", torch.float32, marks=pytest.mark.slow),
        pytest.param("deeplabv3_mobilenet_v3_large", torch.float64, marks=pytest.mark.slow),
        pytest.param("lraspp_mobilenet_v3_large", torch.float32, marks=pytest.mark.slow),
        ("lraspp_mobilenet_v3_large", torch.float64),
    ],
)
def test_a_class_over_a_region(name, dtype):
    model, x = network(name, dtype), images(dtype)
    result = relprop.explain(model, x, target=Mask(2, region()))
    with torch.no_grad():
        expected = model(x)["out"].softmax(1)[:, 2][:, region()].mean(1)
    torch.testing.assert_close(result.score, expected, rtol=1e-5, atol=0)
    total = result.relevance.double().flatten(1).sum(1)
    assert float(((total - result.score.double()) / result.score.double()).abs().max()) < GAP[dtype]
    assert result.ledger.gap < GAP[dtype]
    assert result.ledger.absorbed == 0


@pytest.mark.parametrize("name", ["fcn", "deeplab"])
def test_images_of_a_batch_are_explained_as_alone(name):
    lrp, x = relprop.LRP(small(name), strict=True), images(torch.float64)
    result = lrp(x, target=Mask(2, region()))
    torch.testing.assert_close(result.heatmap.sum((1, 2)), result.score, rtol=1e-12, atol=0)
    expected = lrp.model(x)["out"].softmax(1)[:, 2][:, region()].mean(1).detach()
    torch.testing.assert_close(result.score, expected)
    assert result.ledger.absorbed == 0
    alone = lrp(x[1:], target=Mask(2, region()))
    torch.testing.assert_close(alone.heatmap[0], result.heatmap[1])


def test_a_pixel_is_a_function_of_the_output_or_a_mask_of_one_pixel():
    model, x = small(), images(torch.float64)[:1]
    with torch.no_grad():
        out = model(x)["out"]
    of_function = relprop.explain(model, x, target=lambda y: y[:, 3, 10, 20])
    torch.testing.assert_close(of_function.score, out[:, 3, 10, 20])
    pixel = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    pixel[10, 20] = True
    of_mask = relprop.explain(model, x, target=Mask(3, pixel), start="logit")
    torch.testing.assert_close(of_mask.relevance, of_function.relevance)


def test_where_a_class_is_predicted():
    model, x = small(), images(torch.float64)
    with torch.no_grad():
        out = model(x)["out"]
    predicted = int(out.argmax(1).flatten().bincount().argmax())
    probability = out.softmax(1)[:, predicted]
    expected = torch.stack([p[o.argmax(0) == predicted].mean() for p, o in zip(probability, out, strict=True)])
    torch.testing.assert_close(relprop.explain(model, x, target=Mask(predicted)).score, expected)
