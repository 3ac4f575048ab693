"""The score of a detection: torchvision's detectors of one stage and a head like YOLO's, as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
from relprop.errors import CaptureError, TargetError

pytest.importorskip("torchvision")

import network_detectors as detectors
from network_detectors import detector, found, images

from relprop.core.targets import Detection

SLOW = pytest.mark.slow


# FCOS and RetinaNet are in the quick run below: where nothing is absorbed, and by the logit of a box
@pytest.mark.parametrize("name", [*(pytest.param(name, marks=SLOW) for name in ("retinanet", "fcos")), "ssd", "yolo"])
def test_relevance_sums_to_the_score_of_a_detection(name):
    detectors.require_that_relevance_sums_to_the_score(name, torch.float64)


@pytest.mark.parametrize("name", ["yolo", *(pytest.param(name, marks=SLOW) for name in ("retinanet", "fcos", "ssd"))])
def test_relevance_sums_to_the_score_in_float32(name):
    detectors.require_that_relevance_sums_to_the_score(name, torch.float32)


def test_nothing_is_absorbed_where_the_detector_adds_no_padding():
    detectors.require_that_nothing_is_absorbed_without_padding("fcos")


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=SLOW) for name in ("retinanet", "ssd")), "yolo"])
def test_a_detection_by_a_box_near_it_and_by_its_class(name):
    detectors.require_that_boxes_and_classes_name_detections(name)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("yolo", [2, 0, 1]),
        *(pytest.param(name, [2, 0, 1], marks=SLOW) for name in ("retinanet", "ssd", "fcos")),
    ],
)
def test_images_of_a_batch_are_explained_as_alone(name, numbers):
    detectors.require_that_a_batch_is_explained_as_its_images(name, numbers)


class Logits(nn.Module):
    """What a detector's boxes score, before any of them is chosen: (N, boxes, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        batch, _ = self.model.transform([*x])
        return self.model.head([*self.model.backbone(batch.tensors).values()])["cls_logits"]


def test_the_same_as_the_logit_before_any_box_was_chosen():
    """RetinaNet's score is the sigmoid of one logit of its head: explain the head, from that score at that logit."""
    model, x = detector("retinanet").double(), images(1, torch.float64)
    score = found(model, x)[0]["scores"][1]
    with torch.no_grad():
        probability = Logits(model)(x).sigmoid()
    at = (probability - score).abs() < 1e-12
    assert at.sum() == 1
    expected = relprop.explain(Logits(model), x, start=torch.where(at, score, 0))
    result = relprop.explain(model, x, target=Detection(1))
    torch.testing.assert_close(result.relevance, expected.relevance)
    torch.testing.assert_close(result.score, score[None])
    assert result.ledger.gap < detectors.GAP[torch.float64]


def test_one_number_of_the_head():
    model, x = Logits(detector("retinanet")).double(), images(2, torch.float64)
    result = relprop.LRP(model, strict=True)(x, target=lambda y: y[:, 5, 1])
    torch.testing.assert_close(result.score, model(x)[:, 5, 1].detach())
    assert result.ledger.gap < detectors.GAP[torch.float64]


class Rows(nn.Module):
    """Returns (N, boxes, 4 + classes), as many detectors of others do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 7, 8, 8)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


def test_detections_of_another_form_are_read_by_a_function():
    def read(rows: Tensor) -> list[dict[str, Tensor]]:
        scores, labels = rows[..., 4:].sigmoid().max(2)
        return [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(rows[..., :4], scores, labels, strict=True)]

    model, x = Rows(), images(2)
    result = relprop.explain(model, x, target=Detection(7, read=read))
    expected = model(x).detach()[:, 7, 4:].sigmoid().amax(1)
    torch.testing.assert_close(result.score, expected)
    assert float(detectors.lost(result).abs().max()) < 1e-6
    assert (result.relevance[0] != 0).any(0).nonzero().amin(0).tolist() == [8, 16]  # cell 7 is in row 1, column 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Detection(5), "there is no detection 5 in the image: there are 5"),
        (Detection(-6), "there is no detection -6 in the image: there are 5"),
        (Detection(0, label=9), r"nothing of class 9 was detected in the image \(5 detections\).*box_score_thresh"),
        (Detection(box=(500, 500, 510, 510)), r"no detection in the image overlaps the box .*; nearest is \d, \("),
        (Detection([0, 1]), r"there are 2 detections to explain for 1 image\(s\); give one for each"),
        (Detection(read=lambda y: y[0]["boxes"]), "the model returned list, which is no list of detections"),
    ],
)
def test_messages(target, message):
    with pytest.raises(TargetError, match=message):
        relprop.explain(detector("yolo"), images(), target=target)


def test_a_box_of_another_shape_and_a_detector_without_a_target():
    with pytest.raises(TargetError, match=r"a box is \(x1, y1, x2, y2\).* not \(3,\)"):
        Detection(box=(1, 2, 3))
    with pytest.raises(CaptureError, match=r"returns detections.*say which one.*target=relprop.targets.Detection\(0\)"):
        relprop.explain(detector("yolo"), images())
