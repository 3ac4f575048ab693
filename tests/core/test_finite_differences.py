"""Derivatives of relevance against finite differences: composites, splits, targets."""

from __future__ import annotations

import pytest
import torch
from core_slopes import require_slopes

import relprop
from relprop import targets
from relprop.core.composites.presets import COMPOSITES, epsilon_gamma_box
from tiny import Tiny, images

X = images(2).double()


@pytest.mark.parametrize("composite", [name for name in COMPOSITES if name not in ("released", "epsilon-gamma-box")])
def test_composites_against_finite_differences(composite):
    require_slopes(Tiny(), X, composite=COMPOSITES.build(composite), target=[1, 3])


def test_a_box_against_finite_differences():
    require_slopes(Tiny(), X, composite=epsilon_gamma_box(-6.0, 6.0), target=[1, 3])


@pytest.mark.parametrize("split", ["ratio", "symmetric", "signed"])
@pytest.mark.parametrize("batch_norm", ["pass", "fold"])
def test_splits_against_finite_differences(split, batch_norm):
    require_slopes(Tiny(), X, composite=relprop.paper(split=split, batch_norm=batch_norm, first="image"), target=2)


@pytest.mark.parametrize(
    ("target", "start"),
    [
        (None, "probability"),
        ([[1, 2], [0, 4]], "probability"),
        (targets.Sigmoid(3), "probability"),
        (targets.Contrast(1, 2), "probability"),
        (targets.Similarity(torch.linspace(-1, 2, 5, dtype=torch.float64)), "logit"),
        (targets.Given(lambda y: y * y.softmax(1)), "logit"),
        (lambda y: y.norm(dim=1), "logit"),
        (lambda y: y * y.softmax(1), "logit"),
    ],
    ids=["predicted", "several", "label", "contrast", "similarity", "given", "norm", "function"],
)
def test_targets_against_finite_differences(target, start):
    require_slopes(Tiny(), X, target=target, start=start)
