"""Rules for operations that work element by element on one input: relevance passes through unchanged."""

from __future__ import annotations

from torch import Tensor

from relprop.core.graph.ops import ELEMENTWISE
from relprop.core.rules.rule import Shares, rule
from relprop.core.rules.step import Step


@rule(*ELEMENTWISE, name="pass", reads=())
def pass_through(step: Step, relevance: Tensor) -> Tensor:
    """R_in = R_out: activations, batch norm and dropout pass relevance on (paper, section 3)."""
    return relevance


@rule("add", "sub", "rsub", name="pass", reads=())
def pass_constant(step: Step, relevance: Tensor) -> Shares:
    """R_in = R_out beside a constant: a bias, a positional constant, a scale, a normalisation of the image."""
    return fit(relevance, step.shapes[0])


def fit(relevance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum relevance over the dimensions along which the input was broadcast."""
    return relevance if relevance.shape == shape else relevance.sum_to_size(shape)
