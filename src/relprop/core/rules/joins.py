"""A residual join as a rule: its sources are its branches, its share is the split (Relevance Splitting)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relprop.core.graph.joins import Join
from relprop.core.graph.support import Support
from relprop.core.rules.elementwise import fit
from relprop.core.rules.rule import Rule
from relprop.core.rules.splits import Split, ratio, symmetric
from relprop.core.rules.step import Step


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
