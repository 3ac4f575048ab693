"""How a residual join shares relevance between its branches (Relevance Splitting, Otsuki et al. 2024).

Every split is a function `(branches, relevance) -> one relevance per branch`. The last branch gets the remainder,
so the parts add up to the whole to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relprop.registry import Registry

#: (values of the branches, relevance of their sum) -> relevance of each branch
Split = Callable[[tuple[Tensor, ...], Tensor], tuple[Tensor, ...]]

SPLITS: Registry[Split] = Registry("split")


def _as_member(function: Split) -> Split:
    SPLITS.add(function.__name__, function)
    return function


@_as_member
def symmetric(branches: tuple[Tensor, ...], relevance: Tensor) -> tuple[Tensor, ...]:
    """Share evenly: R_k = R / n, half each at a join of two (Eq. 4)."""
    part = relevance / len(branches)
    rest = relevance
    for _ in branches[1:]:
        rest = rest - part
    return (*[part] * (len(branches) - 1), rest)


@_as_member
def ratio(branches: tuple[Tensor, ...], relevance: Tensor) -> tuple[Tensor, ...]:
    """Share by magnitude: R_k = R |h_k| / Σ |h| (Eq. 5); evenly where all branches are zero."""
    *sizes, total = (branch.abs() for branch in branches)
    for size in sizes:
        total = total.add_(size)
    parts: list[Tensor] = []
    rest = relevance
    for size in sizes:
        # 0/0 alone gives NaN here: finite branches are checked, and |h_k| never exceeds the total
        part = size.div_(total).nan_to_num_(nan=1 / len(branches)).mul_(relevance)
        parts.append(part)
        rest = rest - part
    return (*parts, rest)


@_as_member
def signed(branches: tuple[Tensor, ...], relevance: Tensor) -> tuple[Tensor, ...]:
    """Share by signed contribution: R_k = R h_k / Σ h, as the ε-rule does; evenly where the sum is zero.

    The sum may be near zero while the branches are not: shares can then be large and of either sign.
    """
    total = sum(branches[1:], branches[0])
    parts: list[Tensor] = []
    rest = relevance
    for branch in branches[:-1]:
        share = torch.where(total.abs() > torch.finfo(total.dtype).tiny, branch / total, 1 / len(branches))
        part = relevance * share
        parts.append(part)
        rest = rest - part
    return (*parts, rest)
