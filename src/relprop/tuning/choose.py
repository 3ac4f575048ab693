"""Choosing the best of several candidates, and what that choice is worth on images that had no part in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import UsageError


@dataclass(frozen=True)
class Validation:
    """Outcome of a cross-validation.

    Attributes:
        choice: candidate with the best mean over all images.
        held_out: (N,) score of each image under the choice that was made without it.
        choices: the candidate chosen without each fold.
    """

    choice: int
    held_out: tuple[float, ...]
    choices: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean score where the choice is made on other images: what to expect of it."""
        return mean_and_error(torch.tensor(self.held_out))[0]

    @property
    def error(self) -> float | None:
        """Standard error of that mean."""
        return mean_and_error(torch.tensor(self.held_out))[1]


def cross_validate(scores: Tensor, folds: int, seed: int = 0) -> Validation:
    """Choose the candidate of the best mean, for all images and without each fold of them.

    Args:
        scores: (M, N) of M candidates on N images; higher is better.
        folds: how many parts the images are split into.
        seed: of the split.

    Raises:
        UsageError: fewer than two folds, or more than images.
    """
    images = scores.shape[1]
    if not 2 <= folds <= images:
        raise UsageError(f"cross-validation of {images} images takes 2 to {images} folds, not {folds}")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    held_out = torch.empty(images, dtype=torch.float64)
    choices = []
    for fold in range(folds):
        inside = order[fold::folds]
        outside = torch.ones(images, dtype=torch.bool).index_fill(0, inside, False)
        best = int(scores[:, outside].double().mean(1).argmax())
        held_out[inside] = scores[best, inside].double()
        choices.append(best)
    return Validation(int(scores.double().mean(1).argmax()), tuple(held_out.tolist()), tuple(choices))


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """Mean of (N,), and its standard error; None for one value."""
    values = values.double()
    error = float(values.std(correction=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), error
