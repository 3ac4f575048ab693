"""What part of the score a part of the image holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import relprop
from relprop.core.result.region import coverage, region_sum, sentence
from relprop.errors import UsageError
from tiny import Tiny, images

MAP = torch.arange(12.0).view(1, 3, 4)  # rows 0 1 2 3 / 4 5 6 7 / 8 9 10 11


@pytest.mark.parametrize(
    ("region", "total"),
    [
        ((0, 0, 4, 3), 66),
        ((1, 0, 3, 2), 1 + 2 + 5 + 6),
        ((3, 2, 4, 3), 11),  # x first: the last column of the last row
        ((0.5, 1, 2, 2), 0.5 * 4 + 5),
        ((2.25, 2.5, 2.75, 3), 0.25 * 10),  # within one pixel
        (np.array([0, 0, 1, 3]), 0 + 4 + 8),
        (MAP[0] > 9, 10 + 11),
        ((MAP[0] > 9).numpy(), 10 + 11),
        (torch.full((3, 4), 0.5), 33),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], 0 + 5 + 10),
    ],
)
def test_a_region_sums_what_it_covers(region, total):
    assert region_sum(MAP, region).tolist() == [total]


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        ((0, 0, 5, 3), "0 <= x0 < x1 <= 4 and 0 <= y0 < y1 <= 3 in this image; not 0,0,5,3"),
        ((2, 0, 2, 3), "not 2,0,2,3"),
        ((0, float("nan"), 2, 3), "not 0,nan,2,3"),
        (torch.ones(4, 3), r"a mask of the image's 3 rows and 4 columns; not numbers of shape \(4, 3\)"),
        ((1, 2, 3), r"numbers of shape \(3,\)"),
        (255 * torch.ones(3, 4), "run from 0|run from 255 to 255.*pass mask == label, or mask > 0"),
        (torch.full((3, 4), float("nan")), "run from nan"),
        ("left", "not a str"),
    ],
)
def test_what_is_no_region_is_refused(region, sentence):
    with pytest.raises(UsageError, match=sentence):
        coverage(region, (3, 4))


def test_regions_that_cover_the_image_hold_the_score_for_every_image_and_target():
    result = relprop.explain(Tiny(), images(), target=[[0, 1, 2], [4, 3, 4]])
    left, right = result.sum((0, 0, 3.3, 8)), result.sum((3.3, 0, 8, 8))
    assert left.shape == (2, 3)
    torch.testing.assert_close(left + right, result.score.double(), rtol=1e-5, atol=0)
    assert (left != right).all()
    assert result.sum((2, 1, 5, 4)).allclose(result.heatmap[..., 1:4, 2:5].double().sum((-2, -1)))


def test_a_mask_for_each_image():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2], masks[1, 6:] = True, True
    single = relprop.explain(Tiny(), images())
    assert single.sum(masks).allclose(torch.stack([single.heatmap[0, :2].sum(), single.heatmap[1, 6:].sum()]).double())
    several = relprop.explain(Tiny(), images(), target=[[0, 1], [4, 3]])
    assert several.sum(masks)[:, 1].allclose(
        torch.stack([several.heatmap[0, 1, :2].sum(), several.heatmap[1, 1, 6:].sum()]).double()
    )


def test_only_images_have_regions():
    result = relprop.explain(torch.nn.Linear(6, 3).eval(), torch.rand(2, 6))
    with pytest.raises(UsageError, match=r"only images have regions, not relevance of shape \(2, 6\)"):
        result.sum((0, 0, 1, 1))


def test_a_sentence_says_share_and_area():
    row = {"region": "1,2,3,4", "kind": "box", "share": 0.412, "area": 0.12}
    assert sentence(row) == "the box 1,2,3,4 holds 41.2 % of the score, on 12.0 % of the image"
    assert "outside the crop" in sentence(row | {"area": 0.0})
