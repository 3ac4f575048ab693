"""Two hundred small random networks, every composite: no rule that must conserve leaks, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from core_random import Random

import relprop
from relprop.core.composites import COMPOSITES

NETWORKS, FIRST = 200, 20261
EXACT = 1e-12

CONSERVING = {
    f"paper:{split}:{identity}:{first}:{pool}:{norm}": relprop.paper(split, identity, first, pool, norm)
    for split, identity, first, pool, norm in (
        ("ratio", True, "ones", "winner", "pass"),
        ("ratio", False, "image", "average", "fold"),
        ("symmetric", True, "image", "winner", "pass"),
        ("symmetric", False, "ones", "average", "fold"),
    )
}
print(list(COMPOSITES), itertools)
