"""Torchvision's detectors on a small feature pyramid, with random weights, and a head like YOLO's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn, tensor
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, nms

import relprop
from relprop.core.targets import Detection

GAP = {torch.float32: 1e-6, torch.float64: 1e-12}
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


def found(model: nn.Module, x: Tensor) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        return model(x)


def lost(result: relprop.Relevance) -> Tensor:
    """(N,) the part of the score that did not arrive."""
    total = result.relevance.double().flatten(1).sum(1)
    return (result.score.double() - total) / result.score.double()


# ---- what holds for every detector


def require_that_relevance_sums_to_the_score(name: str, dtype: torch.dtype) -> None:
    model, x = detector(name).to(dtype), images(1, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = relprop.explain(model, x, target=Detection(3))
    torch.testing.assert_close(result.score, found(model, x)[0]["scores"][3:4])
    assert result.ledger.gap < GAP[dtype]
    named = sum(float(torch.as_tensor(entry.received - entry.sent).abs().sum()) for entry in result.ledger.entries)
    assert float(lost(result).abs()) < GAP[dtype] + named / float(result.score)
    torch.testing.assert_close(result.ledger.absorbed, float(lost(result)), rtol=0, atol=GAP[dtype])
    assert (result.relevance > -1e-9).all()
    assert (result.what, result.target.tolist()) == ("detection 3", [-1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def require_that_nothing_is_absorbed_without_padding(name: str) -> None:
    """Sizes that are no multiple of 32 are padded; what falls on units that see nothing else is absorbed, and named."""
    model = detector(name).double()
    padded = relprop.explain(model, images(1, torch.float64), target=Detection(0))
    assert 0.001 < padded.ledger.absorbed < 0.05
    whole = relprop.explain(model, images(1, torch.float64)[..., :32], target=Detection(0))
    torch.testing.assert_close(whole.score, found(model, images(1, torch.float64)[..., :32])[0]["scores"][:1])
    assert whole.ledger.absorbed == 0
    assert float(lost(whole).abs()) < 1e-12


def require_that_boxes_and_classes_name_detections(name: str) -> None:
    model, x = detector(name).double(), images(1, torch.float64)
    (one,) = found(model, x)
    box = one["boxes"][2] + tensor([0.4, -0.3, 0.5, 0.2])
    assert Detection(box=box).numbers([one]) == Detection(box=tuple(box.tolist())).numbers([one]) == [2]
    label = int(one["labels"][3])
    rank = int((one["labels"][:3] == label).sum())
    by_class = Detection(rank, label=label)
    assert by_class.numbers([one]) == [3]
    result = relprop.explain(model, x, target=by_class)
    assert torch.equal(result.score, one["scores"][3:4])
    assert result.what == f"detection of class {label} {rank}"


def require_that_a_batch_is_explained_as_its_images(name: str, numbers: Sequence[int]) -> None:
    model, x = detector(name).double(), images(len(numbers), torch.float64)
    batch = relprop.explain(model, x, target=Detection(numbers))
    for place, number in enumerate(numbers):
        alone = relprop.explain(model, x[place : place + 1], target=Detection(number))
        torch.testing.assert_close(batch.relevance[place], alone.relevance[0])
        torch.testing.assert_close(batch.score[place], alone.score[0])
    if name == "fcos":
        return  # it finds one box for two classes
    boxes = torch.stack([one["boxes"][number] for one, number in zip(found(model, x), numbers, strict=True)])
    torch.testing.assert_close(relprop.explain(model, x, target=Detection(box=boxes)).relevance, batch.relevance)
