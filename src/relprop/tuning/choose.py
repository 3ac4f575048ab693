"""Choosing the best of several candidates, and what that choice is worth on images that had no part in it.

Images to choose on and images to report are never the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.data import Sample, balanced
from relprop.errors import UsageError


@dataclass(frozen=True)
class Validation:
    """Outcome of a cross-validation."""

    choice: int  # candidate with the best mean over all images
    held_out: tuple[float, ...]  # (N,) score of each image under the choice that was made without it
    choices: tuple[int, ...]  # the candidate chosen without each fold

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


def split_samples(
    samples: Sequence[Sample], selection: int, report: int, seed: int = 0, used: Collection[str] = ()
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples into those for selection and to report, each with equally many of each class as far as that goes.

    Args:
        samples: of the data set.
        selection, report: how many.
        seed: of both draws.
        used: ids that may not be reported, since something that is compared was chosen on them.

    Raises:
        UsageError: there are not enough samples for both.
    """
    if selection > len(samples):
        raise UsageError(f"{selection} images to choose on are more than the {len(samples)} there are; ask for fewer")
    chosen = balanced(samples, selection, seed)
    taken = {sample.id for sample in chosen} | set(used)
    rest = [sample for sample in samples if sample.id not in taken]
    if report > len(rest):
        others = f", and layer weights among the references were chosen on {len(used)}" if used else ""
        raise UsageError(
            f"of {len(samples)} images {selection} are to choose on{others}: that leaves {len(rest)} to report on, not "
            f"{report}; ask for fewer, no image can be both"
        )
    return chosen, balanced(rest, report, seed)


def require_disjoint(selection: Iterable[str], report: Iterable[str]) -> None:
    """Refuse to report on images that a choice was made on.

    Raises:
        UsageError: ids are in both; the message names some.
    """
    both = sorted(set(selection) & set(report))
    if both:
        raise UsageError(
            f"{len(both)} image(s) would be reported that the choice was made on, such as {', '.join(both[:3])}; what "
            "was chosen on an image looks better there than it is: report others"
        )
