"""How a residual join shares relevance between its branches (Relevance Splitting, Otsuki et al. 2024).

Every split is a function `(branches, relevance) -> one relevance per branch`. The last branch gets the remainder,
so the parts add up to the whole to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from relprop.core.graph.joins import Join
from relprop.core.graph.support import Support
from relprop.core.rules.rule import Rule, Step, is_fake
from relprop.core.rules.shape import fit
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
        total = total + size if total.requires_grad else total.add_(size)
    # asked once, which takes half the time of looking for 0/0 in each quotient
    alive = bool(not is_fake(total) and total.numel() and total.amin() > 0)
    parts: list[Tensor] = []
    rest = relevance
    for size in sizes:
        if total.requires_grad:  # the derivative of 0/0 is NaN, whatever is put in its place
            part = torch.where(total > 0, size / torch.where(total > 0, total, 1), 1 / len(branches)) * relevance
        else:
            part = size.div_(total)
            if not alive:  # 0/0 alone gives NaN: finite branches are checked, and |h_k| never exceeds the total
                part.nan_to_num_(nan=1 / len(branches))
            part.mul_(relevance)
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
        alive = total.abs() > torch.finfo(total.dtype).tiny
        share = torch.where(alive, branch / torch.where(alive, total, 1), 1 / len(branches))
        part = relevance * share
        parts.append(part)
        rest = rest - part
    return (*parts, rest)


def join_rule(join: Join, split: Split, *, identity: bool = True) -> Rule:
    """The rule of one join: R_k = split_k(h, R), h_k the value of branch k as it enters the sum (Eq. 4 and 5).

    Args:
        join: the sum.
        split: how its branches share.
        identity: whether identity skips get their share; if not, the other branches take all (Table 2).
    """
    everyone = range(len(join.branches))
    sharing = [k for k in everyone if identity or not join.identities[k]] or [*everyone]
    scales = [join.scales[k] for k in sharing]
    reads = len(sharing) > 1 and split is not symmetric

    def share(step: Step, relevance: Tensor) -> tuple[Tensor, ...]:
        if len(sharing) == 1:
            return (fit(relevance, step.shapes[0]),)
        values = [_operand(value, scale, relevance) for value, scale in zip(step.inputs, scales, strict=True)]
        parts = give_back(split(tuple(values), relevance), step.supports)
        return tuple(fit(part, shape) for part, shape in zip(parts, step.shapes, strict=True))

    share.__module__ = getattr(split, "__module__", "")  # a user's split may write to what it is given
    return Rule(
        f"split: {getattr(split, '__name__', 'custom')}",
        share,
        frozenset({"inputs"}) if reads else frozenset(),
        positive=split in (ratio, symmetric),
        several=True,
        sources=tuple(join.branches[k] for k in sharing),
    )


def _operand(value: Tensor | None, scale: float, relevance: Tensor) -> Tensor:
    """A branch as it enters the sum, in its shape; a split that reads none is given the relevance in its place."""
    if value is None:
        return relevance
    scaled = value if scale == 1 else value * scale
    return scaled if scaled.shape == relevance.shape else scaled.expand(relevance.shape)


def give_back(parts: Sequence[Tensor], supports: Sequence[Support]) -> Sequence[Tensor]:
    """Move what a split gave to padding over to a branch that depends on the image there."""
    if all(support is None for support in supports):
        return parts
    parts = [*parts]
    everywhere = next((k for k, support in enumerate(supports) if support is None), None)
    for k, support in enumerate(supports):
        if support is None:
            continue
        lost = torch.where(support, 0, parts[k])
        parts[k] = parts[k] - lost
        if everywhere is not None:
            parts[everywhere] = parts[everywhere] + lost
            continue
        for other, there in enumerate(supports):
            if other != k and there is not None:
                moved = torch.where(there, lost, 0)
                parts[other], lost = parts[other] + moved, lost - moved
    return parts
