"""A signed rule for classifiers: what sets a class apart from the mean of all classes."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.core.rules.affine import affine, evenly
from relprop.core.rules.rule import Step, is_fake, rule


@rule(name="mean-subtracted", positive=False)
def mean_subtracted(step: Step, relevance: Tensor) -> Tensor:
    """Share by contribution to the score less the mean of all scores.

        R_i = Σ_j d_ij / Σ_k d_kj · R_j,   d_ij = (w_ji - mean_l w_li) h_i

    Maps (N, classes, ...) to the layer's input and keeps each sample's sum. A softmax does not see what all scores have
    in common, and neither does this rule; the ε-rule does, and turns a map upside down where that makes the score
    negative. Bias aside, the score of the predicted class is never below the mean, so its denominator is positive.
    Where the denominator is zero, the whole receptive field shares evenly.
    """
    layer = affine(step)
    classes = -1 if step.node.op == "linear" else 1
    z = layer.forward(step.input, layer.weight)
    z = z - z.mean(classes, keepdim=True)
    alive = z.abs() > torch.finfo(z.dtype).tiny
    divided = relevance / torch.where(alive, z, torch.inf)
    shared = step.input * layer.transpose(divided - divided.mean(classes, keepdim=True), layer.weight)
    dead = torch.where(alive, 0, relevance)
    return shared + evenly(layer, dead) if is_fake(dead) or dead.any() else shared
