"""Choosing samples: equally many of each class, by seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from relprop.data.dataset import Sample
from relprop.errors import DataError


def balanced(samples: Sequence[Sample], n: int | None, seed: int = 0) -> tuple[Sample, ...]:
    """Choose `n` samples, equally many of each class, in the order of the data set.

    Dealt like cards: every class shuffles its samples, the classes line up in shuffled order, and in each round
    every class that has one left gives one, until `n` are taken. So a remainder (n not a multiple of the number of
    classes) goes to classes chosen by the seed, and what a small class cannot give is spread over the others.
    Shuffling sorts by a hash of (seed, id): it depends on nothing else, neither machine nor library version.

    None takes all samples.

    Raises:
        DataError: fewer than one, or more than there are.
    """
    if n is None:
        return tuple(samples)
    if not 1 <= n <= len(samples):
        raise DataError(f"{n} samples were asked for; the data set holds {len(samples)}: ask for 1 to {len(samples)}")
    classes: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        classes[sample.label].append(sample)
    order = sorted(classes, key=lambda label: _draw(seed, "class", str(label)))
    rank = {label: at for at, label in enumerate(order)}
    dealt = [
        (number, rank[label], sample.id)
        for label, members in classes.items()
        for number, sample in enumerate(sorted(members, key=lambda one: _draw(seed, "sample", one.id)))
    ]
    chosen = {name for _, _, name in sorted(dealt)[:n]}
    return tuple(sample for sample in samples if sample.id in chosen)


def _draw(seed: int, what: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{what}/{name}".encode()).digest()
