"""Rules that weigh what speaks for an output against what speaks against it, and conserve.

The αβ- and γ-rules of the literature count the bias as a contribution, and what falls on it is absorbed. In trained
networks that is a third to a half of all relevance within a few layers. Here the bias takes no part, as in the paper's
z⁺-rule, and every case in which a denominator is empty says where the relevance goes instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.core.rules.affine import Affine, affine, evenly, forward_sum, part, signed_parts
from relprop.core.rules.rule import Rule
from relprop.core.rules.step import Step, is_fake


def conserving_alpha_beta(alpha: float = 2.0, beta: float = 1.0) -> Rule:
    """Weigh positive against negative contributions (αβ-rule, Bach et al. 2015, Eq. 60), α - β = 1; no bias, no ε.

        R_i = Σ_j (α z⁺_ij / Σ_k z⁺_kj - β z⁻_ij / Σ_k z⁻_kj) · R_j

    Maps (N, *out) to (N, *in) and keeps each sample's sum, since α - β = 1. An output with contributions of one sign
    alone hands all of R_j to them, with its own sign; one with none shares evenly over its in-bounds receptive field.

    Raises:
        ValueError: α - β is not 1, or β is negative.
    """
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise ValueError(f"alpha - beta must be 1 with beta at least 0, not {alpha} - {beta} = {alpha - beta}")

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        above, below = _sums(step, layer)
        return _shared(step, layer, *for_and_against(relevance, above, below, alpha, beta))

    return Rule(f"α{alpha:g}β{beta:g}, conserving", share, positive=not beta)


def for_and_against(
    relevance: Tensor, above: Tensor, below: Tensor, alpha: float | Tensor, beta: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a unit of z⁺ and one of z⁻ get, given their sums, and the relevance where nothing contributes."""
    tiny = torch.finfo(above.dtype).tiny
    speaks, opposes = above > tiny, below < -tiny
    up = relevance * torch.where(opposes, alpha, 1.0) / torch.where(speaks, above, torch.inf)
    down = relevance * torch.where(speaks, -beta, 1.0) / torch.where(opposes, below, torch.inf)
    return up, down, torch.where(speaks | opposes, 0, relevance)


def conserving_gamma(g: float = 0.25) -> Rule:
    """Favour contributions of the sign of their own sum (γ-rule, Montavon et al. 2019), γ > 0; no bias, no ε.

        R_i = Σ_j (z_ij + γ [z_ij]^s_j) / Σ_k (z_kj + γ [z_kj]^s_j) · R_j

    with s_j the sign of z_j = Σ_k z_kj, [z]^+ = max(0, z) and [z]^- = min(0, z). Maps (N, *out) to (N, *in) and keeps
    each sample's sum. Both terms of the denominator have the sign s_j, so it cannot cancel, and shares stay below
    (1 + γ) / γ. An output with no contributions shares evenly over its in-bounds receptive field.

    Raises:
        ValueError: γ is not positive.
    """
    if not g > 0:
        raise ValueError(f"gamma must be above 0, not {g}: without it the denominator can cancel; epsilon is that rule")

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        above, below = _sums(step, layer)
        z = above + below
        favoured = torch.where(z > 0, z + g * above, z + g * below)
        alive = favoured.abs() > torch.finfo(z.dtype).tiny
        divided = relevance / torch.where(alive, favoured, torch.inf)
        up = divided * torch.where(z > 0, 1 + g, 1.0)
        down = divided * torch.where(z > 0, 1.0, 1 + g)
        return _shared(step, layer, up, down, torch.where(alive, 0, relevance))

    return Rule(f"γ={g:g}, conserving", share, positive=False)


def _sums(step: Step, layer: Affine) -> tuple[Tensor, Tensor]:
    """Σ_k z⁺_kj and Σ_k z⁻_kj."""
    plus, minus, parts = part(step, layer.weight, "plus"), part(step, layer.weight, "minus"), signed_parts(step)
    return forward_sum(layer, parts, (plus, minus)), forward_sum(layer, parts, (minus, plus))


def _shared(step: Step, layer: Affine, up: Tensor, down: Tensor, dead: Tensor) -> Tensor:
    """Σ_j z⁺_ij up_j + z⁻_ij down_j, and what outputs without contributions share evenly."""
    plus, minus = part(step, layer.weight, "plus"), part(step, layer.weight, "minus")
    shared = [
        h * (layer.transpose(up, same) + layer.transpose(down, other))
        for h, same, other in zip(signed_parts(step), (plus, minus), (minus, plus), strict=False)
    ]
    total = sum(shared[1:], shared[0])
    return total + evenly(layer, dead) if is_fake(dead) or dead.any() else total
