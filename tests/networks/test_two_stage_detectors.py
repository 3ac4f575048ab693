"""The score of a detection of torchvision's detectors of two stages, Faster and Mask R-CNN, as they are."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision")

import network_detectors as detectors

SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["faster-rcnn", pytest.param("mask-rcnn", marks=SLOW)])
def test_relevance_sums_to_the_score_of_a_detection(name):
    detectors.require_that_relevance_sums_to_the_score(name, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster-rcnn", "mask-rcnn"])
def test_relevance_sums_to_the_score_in_float32(name):
    detectors.require_that_relevance_sums_to_the_score(name, torch.float32)


@pytest.mark.slow
def test_nothing_is_absorbed_where_the_detector_adds_no_padding():
    detectors.require_that_nothing_is_absorbed_without_padding("faster-rcnn")


def test_a_detection_by_a_box_near_it_and_by_its_class():
    detectors.require_that_boxes_and_classes_name_detections("faster-rcnn")


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("faster-rcnn", [2, 0]),
        pytest.param("faster-rcnn", [2, 0, 1], marks=SLOW),
        pytest.param("mask-rcnn", [2, 0, 1], marks=SLOW),
    ],
)
def test_images_of_a_batch_are_explained_as_alone(name, numbers):
    detectors.require_that_a_batch_is_explained_as_its_images(name, numbers)
