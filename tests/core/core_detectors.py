"""Torchvision's detectors on a small feature pyramid, with random weights, and a head like YOLO's."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, nms

WIDTH, CLASSES = 32, 3


class Stages(nn.Module):
    """Three maps, each half the size of the one before, with a pyramid over them if asked."""

    def __init__(self, pyramid: bool = True) -> None:
        super().__init__()
        sizes = (3, WIDTH, 2 * WIDTH, 3 * WIDTH)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(sizes)
        )
        self.pyramid = FeaturePyramidNetwork(list(sizes[1:]), WIDTH) if pyramid else None
        self.out_channels: int | list[int] = WIDTH if pyramid else list(sizes[1:])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, stage in enumerate(self.stages):
            x = maps[str(name)] = stage(x)
        return self.pyramid(maps) if self.pyramid is not None else maps


def _anchors(*ratios: float) -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,), (32,)), (ratios,) * 3)


def _trained(model: nn.Module) -> nn.Module:
    """Batch norms as after training; scores that differ, as those of random weights hardly do."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.Conv2d | nn.Linear) and "stages" not in name:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= 0.7
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def detector(name: str, seed: int = 0) -> nn.Module:
    """A detector that keeps five boxes an image; images are not resized beyond what it needs."""
    torch.manual_seed(seed)
    size = {"min_size": 32, "max_size": 48}
    few = {"detections_per_img": 5, "topk_candidates": 12, "score_thresh": 0.0}
    boxes = {"box_detections_per_img": 5, "box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 12}
    if name == "yolo":
        return _trained(Yolo())
    if name == "ssd":
        backbone = Stages(pyramid=False)
        return _trained(SSD(backbone, DefaultBoxGenerator([[2]] * 3), (32, 40), CLASSES, **few))
    if name == "retinanet":
        return _trained(RetinaNet(Stages(), CLASSES, anchor_generator=_anchors(0.5, 1.0), **few, **size))
    if name == "fcos":
        return _trained(FCOS(Stages(), CLASSES, anchor_generator=_anchors(1.0), **few, **size))
    pools = {
        f"{kind}_roi_pool": MultiScaleRoIAlign(["0", "1", "2"], width, 2, canonical_scale=24, canonical_level=2)
        for kind, width in (("box", 5), ("mask", 6))
    }
    given = {"rpn_anchor_generator": _anchors(0.5, 1.0), **boxes, **size}
    if name == "faster-rcnn":
        return _trained(FasterRCNN(Stages(), CLASSES, box_roi_pool=pools["box_roi_pool"], **given))
    return _trained(MaskRCNN(Stages(), CLASSES, **pools, **given))


class Yolo(nn.Module):
    """Grid cells that each predict a box, an objectness and class scores; the better of overlapping boxes is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Stages(pyramid=False).stages[0], Stages(pyramid=False).stages[1])
        self.head = nn.Conv2d(2 * WIDTH, 4 + 1 + CLASSES, 1)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        grid = self.head(self.body(x))
        rows, columns = torch.meshgrid(torch.arange(grid.shape[2]), torch.arange(grid.shape[3]), indexing="ij")
        centres = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5).to(x) * 4
        found = []
        for cells in grid.flatten(2).transpose(1, 2):
            middle, half = centres + cells[:, :2].tanh() * 2, cells[:, 2:4].exp() * 4
            scores, labels = (cells[:, 4:5].sigmoid() * cells[:, 5:].sigmoid()).max(1)
            boxes = torch.cat([middle - half, middle + half], 1)
            kept = nms(boxes, scores, 0.4)[:5]
            found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
        return found


def images(count: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of 32 x 40 pixels, with a bright square each, so that boxes differ."""
    x = torch.rand(count, 3, 32, 40, generator=torch.Generator().manual_seed(1)) * 0.3
    for place in range(count):
        x[place, :, 6 + 4 * place : 18 + 4 * place, 8 : 24 - place] += 0.6
    return x.to(dtype)
