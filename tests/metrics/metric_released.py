"""The released protocol, a second time: slow, with loops, written from its description and from nothing of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np


def released_curves(
    probability: Callable[[np.ndarray], float], image: np.ndarray, black: np.ndarray, heat: np.ndarray, step: int
) -> tuple[list[float], list[float]]:
    """Insertion and deletion for one normalised image (C, H, W) and its heatmap (H, W)."""
    height, width = heat.shape
    falling = sorted((float(v) for row in heat for v in row), reverse=True)
    insertion, deletion = [], []
    for k in range(math.ceil(height * width / step)):
        rank = min(step * (k + 1), height * width - 1)
        threshold = falling[rank]
        shown, left = np.empty_like(image), np.empty_like(image)
        for row in range(height):
            for column in range(width):
                at_or_above = float(heat[row, column]) >= threshold
                for channel in range(image.shape[0]):
                    pixel, nothing = image[channel, row, column], black[channel]
                    shown[channel, row, column] = pixel if at_or_above else nothing
                    left[channel, row, column] = nothing if at_or_above else pixel
        insertion.append(probability(shown))
        deletion.append(probability(left))
    return insertion, deletion


def trapezoid(curve: list[float]) -> float:
    """Area over points of equal distance, divided by the number of intervals."""
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
