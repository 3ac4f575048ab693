"""What a forward run leaves for the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Trace:
    """Values of one run, by node.

    Attributes:
        values: those that were kept.
        states: weights and constants by name.
        shapes: of every tensor.
        output: the scores.
    """

    values: dict[int, Tensor]
    states: Mapping[str, Tensor]
    shapes: Mapping[int, torch.Size]
    output: Tensor
