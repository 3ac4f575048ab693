"""Rules that weigh what speaks for an output against what speaks against it, and conserve.

The αβ- and γ-rules of the literature count the bias as a contribution, and what falls on it is absorbed. In trained
networks that is a third to a half of all relevance within a few layers. Here the bias takes no part, as in the paper's
z⁺-rule, and every case in which a denominator is empty says where the relevance goes instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.core.rules.affine import Affine, Contributions, affine, contributions, evenly, total
from relprop.core.rules.rule import Rule, Step, is_fake


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
        parts = contributions(step, layer)
        return _shared(layer, parts, *for_and_against(relevance, *_sums(layer, parts), alpha, beta))

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
        parts = contributions(step, layer)
        above, below = _sums(layer, parts)
        z = above + below
        favoured = torch.where(z > 0, z + g * above, z + g * below)
        alive = favoured.abs() > torch.finfo(z.dtype).tiny
        divided = relevance / torch.where(alive, favoured, torch.inf)
        up = divided * torch.where(z > 0, 1 + g, 1.0)
        down = divided * torch.where(z > 0, 1.0, 1 + g)
        return _shared(layer, parts, up, down, torch.where(alive, 0, relevance))

    return Rule(f"γ={g:g}, conserving", share, positive=False)


def _sums(layer: Affine, parts: Contributions) -> tuple[Tensor, Tensor]:
    """Σ_k z⁺_kj and Σ_k z⁻_kj."""
    above = total(layer.forward(h, same) for h, same, _ in parts)
    below = total(layer.forward(h, other) for h, _, other in parts)
    return above, below


def _shared(layer: Affine, parts: Contributions, up: Tensor, down: Tensor, dead: Tensor) -> Tensor:
    """Σ_j z⁺_ij up_j + z⁻_ij down_j, and what outputs without contributions share evenly."""
    shared = total(h * (layer.transpose(up, same) + layer.transpose(down, other)) for h, same, other in parts)
    return shared + evenly(layer, dead) if is_fake(dead) or dead.any() else shared
