"""What makes probabilities of a model's scores: its *link*.

A "softmax" over classes, or a "sigmoid" of each; of a model that returns what is made of such results, the "identity",
or of their logarithms the exponential ("log").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: scores and the dimension of the classes -> probabilities, by link
LINKS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": torch.softmax,
    "sigmoid": lambda scores, dim: scores.sigmoid(),
    "identity": lambda scores, dim: scores,
    "log": lambda scores, dim: scores.exp(),
}

#: the link of a model that ends in an operation
LINK_OF_END = {
    "softmax": "softmax", "log_softmax": "softmax", "_safe_softmax": "softmax", "sigmoid": "sigmoid",
    "log_sigmoid": "sigmoid",
}  # fmt: skip
