"""One rule for every operation that is linear in its data, by its transpose from `torch.func`.

A new linear operation needs its name in `LINEAR`, and nothing else:

    y = L_W h   (L linear in h, and in the weights W if it has any)

Where both operands depend on the image (an attention map and its values) the one that weighs the other is taken as a
constant, W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from relprop.core.graph.gates import signal_of
from relprop.core.graph.graph import Graph, Node
from relprop.core.graph.signs import always_nonnegative
from relprop.core.rules.affine import quotient
from relprop.core.rules.rule import DEFAULTS, Rule, Shares, rule
from relprop.core.rules.step import Absent, Step

#: operations that are linear in one tensor, with weights in another or without any (their weights are >= 0 then)
LINEAR = ("matmul", "mm", "bmm", "mv", "einsum", "cumsum", "col2im", "trapz")


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
        weights, apply = linear_in(step, signal, weighs)
        support = step.supports[signal]
        if support is not None:
            value = value * support.to(value)
        shared = share_weighted(
            value, weights, apply, relevance, support, nonnegative=step.nonnegative[signal], positive=positive_weights
        )
        return tuple(shared if position == signal else None for position in range(len(step.inputs)))

    return Rule("z+ linear", share, receives=None if weighs is None else (signal == 0, signal == 1))


Apply = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


def linear_in(step: Step, signal: int, weighs: int | None) -> tuple[tuple[Tensor, ...], Apply]:
    """The weights of a step, and the step as a function of data and weights."""
    call, kwargs = step.node.call, dict(step.kwargs)
    found: list[Tensor] = []
    seen = 0

    def mark(argument: Any) -> Any:
        nonlocal seen
        if isinstance(argument, Absent):
            seen += 1
            if seen - 1 == signal:
                return _DATA
            known = step.inputs[seen - 1]
            assert known is not None
            argument = known
        if isinstance(argument, Tensor) and argument.is_floating_point():
            found.append(argument)
            return _Weight(len(found) - 1)
        if isinstance(argument, list | tuple):
            return type(argument)(mark(part) for part in argument)
        return argument

    marked = mark(step.args)

    def apply(value: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        result: Tensor = call(*_filled(marked, value, weights), **kwargs)
        return result

    return tuple(found), apply


def on_inputs(step: Step) -> Callable[..., Tensor]:
    """A step as a function of all its inputs."""

    def apply(*values: Tensor) -> Tensor:
        left = iter(values)

        def fill(argument: Any) -> Any:
            if isinstance(argument, Absent):
                return next(left)
            return type(argument)(map(fill, argument)) if isinstance(argument, list | tuple) else argument

        result: Tensor = step.node.call(*fill(step.args), **step.kwargs)
        return result

    return apply


class _Weight(int):
    """Stands for a weight in a step's arguments, by its number."""


_DATA = object()


def _filled(argument: Any, value: Tensor, weights: tuple[Tensor, ...]) -> Any:
    if argument is _DATA:
        return value
    if isinstance(argument, _Weight):
        return weights[argument]
    if isinstance(argument, list | tuple):
        return type(argument)(_filled(part, value, weights) for part in argument)
    return argument


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
    z, transpose = transposed(lambda v: apply(v, _clamped(weights, positive, above=True)), above)
    shares: list[tuple[Tensor, Any]] = [(above, transpose)]
    if not (nonnegative or positive or not weights):
        below = value.clamp(max=0)
        more, transpose = transposed(lambda v: apply(v, _clamped(weights, False, above=False)), below)
        z = z + more
        shares.append((below, transpose))
    divided, dead = quotient(relevance, z)
    shared: Tensor = shares[0][0] * shares[0][1](divided)[0]
    for h, back in shares[1:]:
        shared = shared + h * back(divided)[0]
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


def transposed(function: Callable[..., Tensor], *values: Tensor) -> tuple[Tensor, Any]:
    """Value of a linear function, and the function's transpose."""
    value, transpose = torch.func.vjp(function, *values)[:2]
    return value, transpose


def _clamped(weights: tuple[Tensor, ...], already: bool, *, above: bool) -> tuple[Tensor, ...]:
    if already:
        return weights
    return tuple(w.clamp(min=0) if above else w.clamp(max=0) for w in weights)


def _choose(graph: Graph, node: Node) -> Rule:
    """Take the operand that weighs as a constant; both share where neither does."""
    if len(node.inputs) == 1:
        return by_transpose(0)
    if len(node.inputs) > 2:
        return linear
    signal = signal_of(graph, node)
    if signal is None:
        return equal_shares
    weight = graph.nodes[node.inputs[1 - signal]]
    return by_transpose(signal, weighs=1 - signal, positive_weights=always_nonnegative(graph, weight))


def _share_equally(step: Step, relevance: Tensor) -> Shares:
    shares = []
    for k in (0, 1):
        parts = by_transpose(k, weighs=1 - k).share(step, relevance * 0.5 if k == 0 else relevance - relevance * 0.5)
        assert isinstance(parts, tuple)
        shares.append(parts[k])
    return tuple(shares)


@rule("roi_align", name="z+ average in boxes")
def average_in_boxes(step: Step, relevance: Tensor) -> Tensor:
    """Share each cell of a box by positive contribution (z⁺-rule, Eq. 2): RoI align is a weighted average.

        R_i = Σ_j w_ji max(0, h_i) / Σ_k w_jk max(0, h_k) · R_j

    w_ji ≥ 0 are the weights of bilinear interpolation at the samples of cell j, averaged (He et al. 2017); boxes are
    constants. A cell that nothing positive excites shares by w_ji. Maps (K, C, h, w) to (N, C, H, W).
    """
    boxes, *options = step.args[1:]
    value, support = step.input, step.supports[0]
    backward: Any = torch.ops.torchvision._roi_align_backward
    scale, height, width, samples, aligned = options

    def average(h: Tensor) -> Tensor:
        averaged: Tensor = step.node.call(h, boxes, *options)
        return averaged

    def transpose(r: Tensor) -> Tensor:
        shared: Tensor = backward(r.contiguous(), boxes, scale, height, width, *value.shape, samples, aligned)
        return shared

    there = torch.ones_like(value) if support is None else support.to(value).expand_as(value)
    above = value.clamp(min=0) * there
    divided, dead = quotient(relevance, average(above))
    shared = above * transpose(divided)
    if dead is None:
        return shared
    divided, _ = quotient(dead, average(there))
    return shared + there * transpose(divided)


#: where neither operand weighs the other each gets half (the uniform rule of AttnLRP, Achtibat et al. 2024, Eq. 13)
equal_shares = Rule("z+ linear: equal shares", _share_equally, receives=(True, True))
linear = replace(by_transpose(0), choose=_choose)
for _op in LINEAR:
    DEFAULTS[_op] = linear
