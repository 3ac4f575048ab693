"""Rules for every operation that is linear in its data, by its transpose from autograd.

A new linear operation needs its name in `LINEAR`, or `INTERPOLATIONS` if its weights add up to one, and nothing else:

    y = L_W h   (L linear in h, and in the weights W if it has any)

Where both operands depend on the image (an attention map and its values) the one that weighs the other is taken as a
constant, W.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from relprop.core.graph.gates import signal_of
from relprop.core.graph.graph import Graph, Node
from relprop.core.graph.signs import nonnegative
from relprop.core.rules.affine import quotient, total
from relprop.core.rules.rule import DEFAULTS, Absent, Rule, Shares, Step, rule

#: operations that are linear in one tensor, with weights in another or without any (their weights are >= 0 then)
LINEAR = ("matmul", "mm", "bmm", "mv", "einsum", "cumsum", "col2im", "trapz")

#: operations of which each output is a weighted average; then those of them with weights of either sign
INTERPOLATIONS = (
    "upsample_nearest", "_upsample_nearest_exact", "upsample_linear", "upsample_bilinear", "upsample_trilinear",
    "_upsample_bilinear_aa",
)  # fmt: skip
SIGNED = ("upsample_bicubic", "_upsample_bicubic_aa", "_upsample_lanczos_aa")


def by_transpose(signal: int, *, weighs: int | None = None, positive_weights: bool = False) -> Rule:
    """Share by positive contribution through any linear operation (z⁺-rule, Eq. 2).

        R_i = Σ_j max(0, w_ji h_i) / Σ_k max(0, w_jk h_k) · R_j

    An output that nothing positive excites shares by |w_ji|, and evenly where all of these are zero, over the inputs
    that depend on the image.

    Args:
        signal: position among the step's inputs of h.
        weighs: position of W, where it depends on the image too.
        positive_weights: whether W has no negative number.
    """

    def share(step: Step, relevance: Tensor) -> Shares:
        value = step.inputs[signal]
        assert value is not None
        weights, apply = linear_in(step, signal)
        support = step.supports[signal]
        if support is not None:
            value = value * support.to(value)
        shared = share_weighted(
            value, weights, apply, relevance, support, nonnegative=step.nonnegative[signal], positive=positive_weights
        )
        return tuple(shared if position == signal else None for position in range(len(step.inputs)))

    return Rule("z+ linear", share, receives=None if weighs is None else (signal == 0, signal == 1))


Apply = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


def linear_in(step: Step, signal: int) -> tuple[tuple[Tensor, ...], Apply]:
    """The weights of a step, and the step as a function of data (its input `signal`) and weights."""
    leaves, form = tree_flatten(step.args)
    inputs = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Absent)]
    data = inputs[signal]
    for place, value in zip(inputs, step.inputs, strict=True):
        if place != data:
            assert value is not None
            leaves[place] = value
    weighing = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def apply(value: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        return _called(step, leaves, form, (data, *weighing), (value, *weights))

    return tuple(leaves[place] for place in weighing), apply


def on_inputs(step: Step, *, constants: bool = True) -> Callable[..., Tensor]:
    """A step as a function of all its inputs; without `constants`, those among its operands are zero."""
    leaves, form = tree_flatten(step.args)
    inputs = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Absent)]
    if not constants:
        return lambda *values: _called(step, [_zero(leaf, values[0]) for leaf in leaves], form, inputs, values)
    return lambda *values: _called(step, leaves, form, inputs, values)


def _zero(leaf: Any, like: Tensor) -> Any:
    """Zero in the place of a constant that is no index: a tensor in the type of `like`, or a number."""
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return torch.zeros_like(leaf, dtype=like.dtype)
    return 0.0 if isinstance(leaf, float) else leaf


def _called(
    step: Step, leaves: Sequence[Any], form: TreeSpec, places: Sequence[int], values: Sequence[Tensor]
) -> Tensor:
    """What a step's operation makes of its arguments, with values at some places among these."""
    filled = [*leaves]
    for place, value in zip(places, values, strict=True):
        filled[place] = value
    result: Tensor = step.node.call(*tree_unflatten(filled, form), **step.kwargs)
    return result


def share_weighted(
    value: Tensor,
    weights: tuple[Tensor, ...],
    apply: Apply,
    relevance: Tensor,
    support: Tensor | None,
    *,
    nonnegative: bool = False,
    positive: bool = False,
) -> Tensor:
    """The z⁺-rule by transposes: see `by_transpose`."""
    above = value.clamp(min=0)
    sums: list[Tensor] = []
    shares: list[tuple[Tensor, Any]] = []
    for signs in itertools.product(range(1 if positive else 2), repeat=len(weights)):
        odd = sum(signs) % 2 == 1  # of weights below zero: then contributions of values below zero are positive
        if odd and nonnegative:
            continue
        ws = [
            w if positive else w.clamp(max=0) if sign else w.clamp(min=0)
            for w, sign in zip(weights, signs, strict=True)
        ]
        h = value.clamp(max=0) if odd else above
        made, transpose = transposed(lambda v, ws=tuple(ws): apply(v, ws), h)
        sums.append(made)
        shares.append((h, transpose))
    divided, dead = quotient(relevance, total(sums))
    shared = total(h * back(divided)[0] for h, back in shares)
    if dead is None:
        return shared
    members = torch.ones_like(value) if support is None else support.to(value).expand_as(value)
    for sizes in (tuple(w.abs() for w in weights), tuple(torch.ones_like(w) for w in weights)):
        z, transpose = transposed(lambda v, sizes=sizes: apply(v, sizes), members)
        divided, dead = quotient(dead, z)
        shared = shared + members * transpose(divided)[0]
        if dead is None:
            break
    return shared


def transposed(
    function: Callable[..., Tensor], *values: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """Value of a linear function, and the function's transpose, which is its gradient.

    `torch.func.vjp` is that too, but loads torch's compiler at its first use, for a second or two.
    """
    if torch.is_inference_mode_enabled() or any(value.is_inference() for value in values):
        value, transpose = torch.func.vjp(function, *values)[:2]  # autograd takes no tensors of that mode
        return value, transpose
    with torch.enable_grad():
        inputs = [value if value.requires_grad else value.detach().requires_grad_() for value in values]
        made = function(*inputs)

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            return torch.autograd.grad(made, inputs, relevance, retain_graph=True, create_graph=True)
        with torch.enable_grad():  # the same, but a gradient that is given loads sympy at its first use, for 0.6 s
            product = torch.dot(made.flatten(), relevance.flatten())
        return torch.autograd.grad(product, inputs, retain_graph=True)

    return made if torch.is_grad_enabled() else made.detach(), back


def back_through(step: Step, value: Tensor, relevance: Tensor) -> Tensor:
    """Relevance through the transpose of a step of one input, at `value` of the input's shape."""
    back: Tensor = transposed(on_inputs(step), value)[1](relevance)[0]
    return back


@rule(*INTERPOLATIONS, name="interpolation", reads=())
def spread_back(step: Step, relevance: Tensor) -> Tensor:
    """Give each value to those it was interpolated from, by the weights of the interpolation.

        R_i = Σ_j w_ji R_j,   where h_j = Σ_i w_ji h_i and Σ_i w_ji = 1

    Every output is a weighted average, so nothing is divided and each sample's sum is kept, whatever the signs.
    """
    return back_through(step, relevance.new_zeros(step.shapes[0]), relevance)


@rule(*SIGNED, name="signed interpolation", reads=(), positive=False)
def spread_back_signed(step: Step, relevance: Tensor) -> Tensor:
    """As `spread_back`: bicubic weights too add up to one, but some are negative, and so are some shares."""
    return back_through(step, relevance.new_zeros(step.shapes[0]), relevance)


def _choose(graph: Graph, node: Node) -> Rule:
    """Take the operand that weighs as a constant; both share where neither does."""
    if len(node.inputs) == 1:
        return by_transpose(0)
    if len(node.inputs) > 2:
        return linear
    signal = signal_of(graph, node)
    if signal is None:
        return equal_shares
    positive = nonnegative(graph)[node.inputs[1 - signal]]
    return by_transpose(signal, weighs=1 - signal, positive_weights=positive)


def _share_equally(step: Step, relevance: Tensor) -> Shares:
    shares = []
    for k in (0, 1):
        parts = by_transpose(k, weighs=1 - k).share(step, relevance * 0.5 if k == 0 else relevance - relevance * 0.5)
        assert isinstance(parts, tuple)
        shares.append(parts[k])
    return tuple(shares)


#: where neither operand weighs the other each gets half (the uniform rule of AttnLRP, Achtibat et al. 2024, Eq. 13)
equal_shares = Rule("z+ linear: equal shares", _share_equally, receives=(True, True))
linear = replace(by_transpose(0), choose=_choose)
for _op in LINEAR:
    DEFAULTS[_op] = linear
