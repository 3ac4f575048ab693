"""The rule for interpolation: a network that upsamples its features or its scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relprop.core.rules.rule import rule
from relprop.core.rules.step import Step

OPS = ("upsample_nearest", "_upsample_nearest_exact", "upsample_linear", "upsample_bilinear", "upsample_trilinear")

#: the same, with weights of either sign
SIGNED = ("upsample_bicubic", "_upsample_bicubic_aa", "_upsample_lanczos_aa")


@rule(*SIGNED, name="signed interpolation", reads=(), positive=False)
def spread_back_signed(step: Step, relevance: Tensor) -> Tensor:
    """As `spread_back`: bicubic weights too add up to one, but some are negative, and so are some shares."""
    return _spread(step, relevance)


@rule(*OPS, "_upsample_bilinear_aa", name="interpolation", reads=())
def spread_back(step: Step, relevance: Tensor) -> Tensor:
    """Give each value to those it was interpolated from, by the weights of the interpolation.

        R_i = Σ_j w_ji R_j,   where h_j = Σ_i w_ji h_i and Σ_i w_ji = 1

    Every output is a weighted average, so nothing is divided and each sample's sum is kept, whatever the signs.
    """
    return _spread(step, relevance)


def _spread(step: Step, relevance: Tensor) -> Tensor:
    call: Any = step.node.call

    def interpolate(value: Tensor) -> Tensor:
        result: Tensor = call(value, *step.args[1:], **step.kwargs)
        return result

    transpose: Any = torch.func.vjp(interpolate, relevance.new_zeros(step.shapes[0]))[1]
    shared: Tensor = transpose(relevance)[0]
    return shared
