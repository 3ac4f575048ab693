"""A signed rule for classifiers: what sets a class apart from the classes that compete with it."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.core.graph.batch_axis import exact_type
from relprop.core.graph.graph import Graph, Node
from relprop.core.rules.affine import affine, evenly
from relprop.core.rules.conserving import for_and_against
from relprop.core.rules.mean_subtracted import mean_subtracted
from relprop.core.rules.rule import Rule, Step, is_fake

_CLASSES = 2  # one class, or one against another; more would cost one product with the weights each

#: β at most: the two parts of a map that cancel are then up to 19 times its total, and rounding errors with them
_MOST = 9.0


def _share(step: Step, relevance: Tensor) -> Tensor:
    """Share by contribution to the score less that of its competitors, for and against.

        R_i = ((1 + β) d⁺_i / Σ_k d⁺_k - β d⁻_i / Σ_k d⁻_k) · R_c,   d_i = (w_ci - Σ_k q_k w_ki) h_i

    q weighs the other classes by their scores (`competitors`). With their probabilities in place of q, d is gradient
    times input of the log-odds of class c, log p_c / (1 - p_c), as in Softmax-Gradient LRP (Iwana et al. 2019, arXiv
    1908.04351), which follows contrastive LRP (Gu et al. 2018, arXiv 1812.02100). They share by d_i / Σ_k d_k, which is
    the αβ-rule (Bach et al. 2015, Eq. 60) with the β of these sums, P = Σ_k d⁺_k and M = -Σ_k d⁻_k,

        β = M / (P - M),   here at least 1 and at most 9.

    It has no bound where the two are nearly equal, and is negative, the map upside down, for a class behind its
    competitors. Two to one at least also shows what speaks against a class that wins clearly.

    Maps (N, ..., classes) to (N, ..., inputs) and keeps each sum. Contributions of one sign take all; where there are
    none, all inputs share evenly. The two classes with the most relevance are contrasted in this way; what others hold
    is shared as what sets them apart from the mean of all.
    """
    layer = affine(step)
    scores = layer.forward(step.input, layer.weight)
    shared = torch.zeros_like(step.input)
    for _ in range(_CLASSES):
        which = relevance.abs().argmax(-1, keepdim=True)
        own = torch.zeros_like(scores).scatter(-1, which, 1)
        contributions = step.input * layer.transpose(own - competitors(scores, own), layer.weight)
        contributions = contributions.to(exact_type(scores))  # what cancels is up to 19 times what is left
        above, below = contributions.clamp_min(0), contributions.clamp_max(0)
        totals = above.sum(-1, keepdim=True), below.sum(-1, keepdim=True)
        up, down, dead = for_and_against(relevance.gather(-1, which), *totals, *_weights(*totals))
        shared = shared + (up * above + down * below).to(shared.dtype)
        if is_fake(dead) or dead.any():
            shared = shared + evenly(layer, own * dead.to(own.dtype))
        relevance = relevance.scatter(-1, which, 0)
        if not is_fake(relevance) and not relevance.any():
            return shared
    return shared + mean_subtracted.share(step, relevance)  # type: ignore[operator]


def _weights(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """α = 1 + β and β, given Σ_k d⁺_k and Σ_k d⁻_k."""
    against = -below
    least = (against / _MOST).clamp_min(torch.finfo(above.dtype).tiny)
    beta = (against / torch.maximum(above - against, least)).clamp_min(1)
    return 1 + beta, beta


def competitors(scores: Tensor, own: Tensor) -> Tensor:
    """Weights of the classes other than `own` (one-hot), both (..., classes): a softmax of their standard scores.

        q_k ∝ exp(z_k / σ),   k ≠ c,   σ² = mean_k≠c (z_k - mean_l≠c z_l)²

    In units of their own spread the weights do not depend on the scale of the scores, which differs between networks by
    a factor of six and says how sure they were trained to be. All zero where there is no other class.
    """
    others = 1 - own
    count = others.sum(-1, keepdim=True).clamp_min(1)
    mean = (scores * others).sum(-1, keepdim=True) / count
    spread = ((scores - mean).square() * others).sum(-1, keepdim=True).div(count).sqrt()
    best = scores.masked_fill(own > 0, -torch.inf).amax(-1, keepdim=True)
    tiny = torch.finfo(scores.dtype).tiny
    weights = torch.exp((scores - best).clamp_max(0) / spread.clamp_min(tiny)) * others
    return weights / weights.sum(-1, keepdim=True).clamp_min(tiny)


def _choose(graph: Graph, node: Node) -> Rule:
    """The rule is of linear layers; another kind of last layer shares what sets a class apart from the mean."""
    return contrast if node.op == "linear" else mean_subtracted


contrast = Rule("contrast", _share, positive=False, choose=_choose)
