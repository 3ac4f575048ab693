"""The mask of an instance that Mask R-CNN of torchvision found."""

from __future__ import annotations

import pytest
import torch

import relprop
from relprop.errors import TargetError

pytest.importorskip("torchvision")

from network_detectors import detector, found, images, lost

from relprop.core.targets import InstanceMask


def test_the_mask_of_an_instance():
    model, x = detector("mask-rcnn").double(), images(1, torch.float64)
    (one,) = found(model, x)
    result = relprop.explain(model, x, target=InstanceMask(1))
    mask = one["masks"][1]
    torch.testing.assert_close(result.score[0], mask[mask > 0.5].mean())
    assert result.ledger.gap < 1e-12
    torch.testing.assert_close(result.ledger.absorbed, float(lost(result).max()), rtol=0, atol=1e-12)
    assert result.what == "mask of detection 1"
    region = torch.zeros(32, 40, dtype=torch.bool)
    x1, y1, x2, y2 = one["boxes"][1].round().long().tolist()
    region[y1 : (y1 + y2) // 2 + 1, x1 : (x1 + x2) // 2 + 1] = True
    corner = relprop.explain(model, x, target=InstanceMask(1, mask=region))
    torch.testing.assert_close(corner.score[0], one["masks"][1, 0][region].mean())
    with pytest.raises(TargetError, match=r"mask must be bool of shape \(32, 40\), not \(3, 3\)"):
        relprop.explain(model, x, target=InstanceMask(1, mask=torch.ones(3, 3, dtype=torch.bool)))
    with pytest.raises(TargetError, match="the mask is empty in image 0"):
        relprop.explain(model, x, target=InstanceMask(1, mask=torch.zeros(32, 40, dtype=torch.bool)))
    with pytest.raises(TargetError, match=r"mask of detection 0 needs a model that returns masks \(K, 1, H, W\)"):
        relprop.explain(detector("yolo"), images(), target=InstanceMask(0))
