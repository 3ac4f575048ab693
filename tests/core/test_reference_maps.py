"""The authors' released code: maps that it made, on weights and images from a seed."""

from __future__ import annotations

import importlib.util
import itertools
from functools import cache

import numpy as np
import pytest
import torch

import relprop
from core_resnet import ResNet

VARIANTS = {"i": ("symmetric", False), "ii": ("symmetric", True), "iii": ("ratio", False), "iv": ("ratio", True)}


@pytest.fixture(scope="module")
def case(shared):
    folder = shared / "reference"
    spec = importlib.util.spec_from_file_location("seeded", folder / "seeded.py")
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    with np.load(folder / "released_resnet18_seed7_images3.npz") as stored:
        maps = dict(stored)
    with torch.device("meta"):  # no numbers yet: all weights come from the seed
        empty = ResNet(64, (2, 2, 2, 2), 1000)
    model = seeded.seed_weights(empty.to_empty(device="cpu"), 7)
    return model, seeded.seed_images(len(maps["p"]), 224, 3), maps


#: of one image by two variants, which differ in both options; slowly of all images by all variants
QUICK, ALL = (1, ("ii", "iii")), (3, tuple(VARIANTS))


@pytest.fixture(scope="module")
def explained(case):
    """Relevance of some images by some variants, in one forward run."""
    model, x, _ = case

    @cache
    def explain(count: int, variants: tuple[str, ...]) -> dict[str, relprop.Relevance]:
        composites = [relprop.released(*VARIANTS[variant]) for variant in variants]
        return dict(zip(variants, relprop.LRP(model).explain_each(x[:count], composites), strict=True))

    return explain


@pytest.mark.parametrize(
    ("asked", "variant"),
    [
        *(pytest.param(QUICK, variant, id=variant) for variant in QUICK[1]),
        *(pytest.param(ALL, variant, id=f"{variant} of all", marks=pytest.mark.slow) for variant in ALL[1]),
    ],
)
def test_released_equals_the_authors_maps(case, explained, asked, variant):
    maps, result = case[2], explained(*asked)[variant]
    count = len(result.relevance)
    assert result.target.tolist() == maps["target"][:count].tolist()
    np.testing.assert_allclose(result.score, maps["p"][:count], rtol=1e-5)
    theirs = torch.from_numpy(maps[variant][:count])
    for ours, reference in zip(result.heatmap, theirs, strict=True):
        assert (ours - reference).abs().sum() / reference.abs().sum() <= 1e-5
    assert result.ledger.gap <= 1e-5
    assert result.ledger.absorbed > 1e-6


def test_the_variants_differ(case):
    """Or else the test above would not tell them apart."""
    _, _, maps = case
    names = [*VARIANTS]
    for a, b in itertools.pairwise(names):
        assert np.abs(maps[a] - maps[b]).sum() / np.abs(maps[a]).sum() > 1e-2
