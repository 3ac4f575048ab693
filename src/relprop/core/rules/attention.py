"""Attention, softmax(q kᵀ / √d) v: by its values alone, or with the AttnLRP rules."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from relprop.core.graph.graph import Graph, Node, Ref, with_defaults
from relprop.core.rules.affine import stabilised_quotient
from relprop.core.rules.rule import DEFAULTS, Absent, Rule, Shares, Step
from relprop.core.rules.transpose import by_transpose, on_inputs, share_weighted, transposed


def _operand(step: Step, position: int) -> Tensor:
    """Query, key, value or mask (0 to 3), whether or not it depends on the image: a learned query does not."""
    argument = step.args[position]
    if isinstance(argument, Tensor):
        return argument
    value = step.inputs[sum(isinstance(other, Absent) for other in step.args[:position])]
    assert value is not None
    return value


def attention_map(step: Step) -> tuple[Tensor, Tensor]:
    """Logits q kᵀ · scale, and A = softmax(logits + mask): (..., queries, keys), nowhere negative, rows of sum one."""
    query, key = _operand(step, 0), _heads(step, _operand(step, 1))
    mask, _, causal = with_defaults(step.args[3:], None, 0.0, False)
    mask = _operand(step, 3) if isinstance(mask, Absent) else step.kwargs.get("attn_mask", mask)
    plain = (query * _scale(step)) @ key.transpose(-1, -2)
    logits = plain
    if step.kwargs.get("is_causal", causal):
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(future, -torch.inf)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return plain, logits.softmax(-1)


def _scale(step: Step) -> float:
    return step.kwargs.get("scale") or 1 / math.sqrt(_operand(step, 0).shape[-1])


def _heads(step: Step, value: Tensor) -> Tensor:
    """Keys or values of grouped-query attention, repeated for each of their queries' heads."""
    if not step.kwargs.get("enable_gqa"):
        return value
    return value.repeat_interleave(_operand(step, 0).shape[-3] // value.shape[-3], -3)


def _ungrouped(step: Step, relevance: Tensor) -> Tensor:
    """Relevance of repeated heads, added up by origin."""
    if not step.kwargs.get("enable_gqa"):
        return relevance
    heads = _operand(step, 2).shape[-3]
    return relevance.reshape(*relevance.shape[:-3], heads, -1, *relevance.shape[-2:]).sum(-3)


def _share_values(step: Step, relevance: Tensor) -> Shares:
    """Share as the average that attention is, its weights A as constants (Ali et al. 2022, arXiv 2202.07304).

        R_j = Σ_i max(0, A_ij v_j) / Σ_k max(0, A_ik v_k) · R_i   in each channel

    Maps (N, heads, queries, d) to (N, heads, keys, d) and keeps the sum. Queries and keys get none; where no value is
    positive, tokens share by their weights. Tokens that do not depend on the image (class tokens before the first
    block) take no part.
    """
    value, (_, weights) = _operand(step, 2), attention_map(step)
    position = sum(isinstance(other, Absent) for other in step.args[:2])
    support = step.supports[position]
    if support is not None:
        value = value * support.to(value)
        support = _heads(step, support.to(value).expand_as(value))
    shared = share_weighted(
        _heads(step, value),
        (weights,),
        lambda v, w: w[0] @ v,
        relevance,
        support,
        nonnegative=step.nonnegative[position],
        positive=True,
    )
    return tuple(_ungrouped(step, shared) if k == position else None for k in range(len(step.inputs)))


def _choose_values(graph: Graph, node: Node) -> Rule:
    """The value alone receives relevance: of what depends on the image, queries, keys and the mask only weigh it."""
    by_image = [isinstance(a, Ref) for a in node.args]
    if not by_image[2] or any(by_image[4:]) or len(node.inputs) != sum(by_image):
        return Rule(attention_values.name, _share_values)  # cannot serve
    receives = tuple(position == 2 for position, depends in enumerate(by_image) if depends)
    return replace(attention_values, choose=None, receives=receives)


#: relevance goes to the values alone
attention_values = Rule("attention: values", _share_values, choose=_choose_values)
DEFAULTS["scaled_dot_product_attention"] = attention_values


def softmax_rule() -> Rule:
    """Softmax by its Taylor expansion (AttnLRP, Achtibat et al. 2024, arXiv 2402.05602, Proposition 3.1).

    R_i = x_i (R_i' - s_i Σ_j R_j'), over the softmax's dimension. Does not conserve: what is missing is absorbed.
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        dim = step.args[1] if len(step.args) > 1 else step.kwargs.get("dim", -1)
        assert step.output is not None
        return _softmax_share(step.input, step.output, relevance, dim)

    return Rule("softmax (AttnLRP)", share, frozenset({"inputs", "output"}), conserves=False, positive=False)


def _softmax_share(logits: Tensor, weights: Tensor, relevance: Tensor, dim: int = -1) -> Tensor:
    spread = relevance - weights * relevance.sum(dim, keepdim=True)
    return torch.where(logits.isfinite(), logits, 0) * spread


def matmul_rule(eps: float = 1e-6) -> Rule:
    """A product of two matrices that both depend on the image, half to each (AttnLRP, Proposition 3.3).

    R_a,ij = Σ_p a_ij b_jp R_ip / (2 o_ip + ε sign),  R_b,jp = Σ_i a_ij b_jp R_ip / (2 o_ip + ε sign).  ε absorbs.
    """

    def share(step: Step, relevance: Tensor) -> Shares:
        first, second = step.inputs
        assert first is not None
        assert second is not None
        output, transpose = transposed(on_inputs(step), first, second)
        to_first, to_second = transpose(stabilised_quotient(relevance, 2 * output, eps))
        return first * to_first, second * to_second

    made = Rule("matmul (AttnLRP)", share, conserves=False, positive=False, receives=(True, True))
    return replace(made, choose=lambda _, node: made if len(node.inputs) == 2 else by_transpose(0))


def attention_attnlrp(eps: float = 1e-6) -> Rule:
    """`scaled_dot_product_attention` by the AttnLRP rules: matmul, softmax, matmul, each as above."""

    def share(step: Step, relevance: Tensor) -> Shares:
        query, keys, values = _operand(step, 0), _heads(step, _operand(step, 1)), _heads(step, _operand(step, 2))
        logits, weights = attention_map(step)
        divided = stabilised_quotient(relevance, 2 * (weights @ values), eps)
        to_weights = weights * (divided @ values.transpose(-1, -2))
        to_values = values * (weights.transpose(-1, -2) @ divided)
        to_logits = _softmax_share(logits, weights, to_weights)
        divided = stabilised_quotient(to_logits, 2 * logits, eps) * _scale(step)
        to_query = query * (divided @ keys)
        to_key = keys * (divided.transpose(-1, -2) @ query)
        return to_query, _ungrouped(step, to_key), _ungrouped(step, to_values)

    def choose(graph: Graph, node: Node) -> Rule:
        """Where the query is learned, say, by values: the other rules need all three."""
        return made if len(node.inputs) == 3 else attention_values.at(graph, node) or attention_values

    made = Rule("attention (AttnLRP)", share, conserves=False, positive=False, receives=(True, True, True))
    return replace(made, choose=choose)
