"""Rules for values that are added up, put or reduced at an index: `index_add`, `scatter`, and their like.

    y_j = b_j + Σ_{i at j} h_i   where they are added up,   y_j = h_i   where they are put

b is what is written to; the index is a constant. What b, or a number that is put, holds of no image gets none.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from relprop.core.graph.graph import Graph, Node, Ref
from relprop.core.graph.ops import ADDS_AT, PUTS_AT
from relprop.core.rules.affine import quotient
from relprop.core.rules.rule import DEFAULTS, Absent, Rule, Shares, Step
from relprop.core.rules.shape import put_back
from relprop.core.rules.transpose import on_inputs, transposed


def add_up(step: Step, relevance: Tensor) -> Shares:
    """Share by positive contribution between all that is added up at a position (z⁺-rule, Eq. 2).

        R_i = max(0, h_i) / Σ_k max(0, h_k) · R_j,   i and k at j, b among them

    Where nothing there is positive, all share evenly. A mean's divisor cancels; a factor belongs to what it multiplies.
    """
    factor = -1.0 if step.kwargs.get("alpha", 1) < 0 and isinstance(step.args[-1], Absent) else 1.0
    signs = [*[1.0] * (len(step.inputs) - 1), factor]
    members, parts = [], []
    for value, support, sign in zip(step.inputs, step.supports, signs, strict=True):
        assert value is not None
        there = sign * (torch.ones_like(value) if support is None else support.to(value).expand_as(value))
        members.append(there)
        parts.append(there * (sign * value).clamp(min=0))
    shares, left = _by_size(step, parts, relevance)
    if left is not None:
        more, _ = _by_size(step, members, left)
        shares = [share + part for share, part in zip(shares, more, strict=True)]
    return tuple(shares)


def _by_size(step: Step, parts: list[Tensor], relevance: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Relevance in proportion to what each part adds, and that of sums that are zero."""
    z, back = transposed(on_inputs(step, constants=False), *parts)
    divided, dead = quotient(relevance, z)
    return [part * sent for part, sent in zip(parts, back(divided), strict=True)], dead


def put(step: Step, relevance: Tensor) -> Shares:
    """All to the value that came to lie there: the step is run on the positions of its inputs."""
    sizes = [shape.numel() for shape in step.shapes]
    whole = torch.arange(1, sum(sizes) + 1, dtype=torch.float64, device=relevance.device)
    origins = [part.view(shape) for part, shape in zip(torch.split(whole, sizes), step.shapes, strict=True)]
    index = on_inputs(step, constants=False)(*origins).long().flatten()
    sent = relevance.new_zeros(len(whole) + 1).index_add(0, index, relevance.flatten())[1:]
    return tuple(part.view(shape) for part, shape in zip(torch.split(sent, sizes), step.shapes, strict=True))


def largest(step: Step, relevance: Tensor) -> Shares:
    """All to the largest there, in equal shares where several are."""
    values = [value for value in step.inputs if value is not None]
    return transposed(on_inputs(step), *values)[1](relevance)


ADDED = Rule("z+ sum at an index", add_up, several=True)
PUT = Rule("put at an index", put, frozenset(), several=True)
LARGEST = Rule("largest at an index", largest, several=True)


def _reduced(graph: Graph, node: Node) -> Rule | None:
    """By what values are reduced with: "sum", "mean" or "amax"; there is none for "prod" and "amin"."""
    if node.args[4] == "amax":
        constant = not (isinstance(node.args[0], Ref) and isinstance(node.args[3], Ref))
        return replace(LARGEST, conserves=not constant or not node.kwargs.get("include_self", True))
    return ADDED if node.args[4] in ("sum", "mean") else None


def _put(graph: Graph, node: Node) -> Rule | None:
    """`index_put` adds up what it puts, if it is told to; `scatter` with `reduce` has no rule."""
    if node.op == "index_put":
        return ADDED if node.args[3:4] == (True,) else put_back
    return None if "reduce" in node.kwargs or len(node.args) > 4 else PUT


DEFAULTS |= dict.fromkeys(ADDS_AT, ADDED) | dict.fromkeys(PUTS_AT, replace(PUT, choose=_put))
DEFAULTS |= {"masked_scatter": PUT, "index_put": replace(PUT, reads=ADDED.reads, choose=_put)}
DEFAULTS |= dict.fromkeys(("scatter_reduce", "index_reduce"), replace(LARGEST, choose=_reduced))
