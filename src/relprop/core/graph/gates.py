"""Which operand of a product weighs the other: the gate of a squeeze-and-excitation, the attention map, a normaliser.

Relevance follows the operand that is weighed, the *signal*: "signal takes all" (Arras et al. 2017, for the gates of
LSTMs; arXiv 1706.07206), and attention weights taken as constants (Ali et al. 2022, arXiv 2202.07304).
"""

from __future__ import annotations

import math

from relprop.core.graph.graph import Graph, Node
from relprop.core.graph.ops import COPIES

#: how much an operand looks like a weight, by the operation that makes it
_WEIGHT = frozenset({"softmax", "_safe_softmax", "sigmoid", "hardsigmoid"})
_SQUASHED = frozenset({"tanh", "erf", "softsign", "sign", "sgn"})
_NORMALISER = frozenset({"rsqrt", "reciprocal", "sqrt", "linalg_vector_norm", "norm", "std", "var", "pow"})
_NONNEGATIVE = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min", "exp", "softplus", "elu", "square", "abs"})
_ACTIVATION = frozenset({"silu", "gelu", "mish", "hardswish", "leaky_relu", "prelu"})
_PRODUCTS = frozenset({"mul", "matmul", "mm", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"})
_RANKS = (_ACTIVATION, _NONNEGATIVE, _NORMALISER, _SQUASHED, _WEIGHT)

#: what an operand keeps its looks through
_TRANSPARENT = COPIES | {
    "dropout", "clone", "contiguous", "detach", "alias", "to", "type_as", "mul", "div", "add", "sub", "rsub",
    "masked_fill", "upsample_nearest", "upsample_bilinear",
}  # fmt: skip


def signal_of(graph: Graph, node: Node) -> int | None:
    """Position among `node.inputs` of the operand that is weighed; None where neither weighs the other.

    The weight is the operand that lies between 0 and 1 (softmax, sigmoid), is squashed (tanh), computed as a
    normaliser, or activated, in this order; a value that has been weighed already is signal. In products element by
    element a smaller operand, which repeats over positions or channels, comes before all that.
    """
    first, second = (graph.nodes[index] for index in node.inputs)
    if first is second:
        return None
    if node.op == "mul" and (numbers := (_numbers(first), _numbers(second)))[0] != numbers[1]:
        return int(numbers[1] > numbers[0])
    ranks = _rank(graph, first), _rank(graph, second)
    return None if ranks[0] == ranks[1] else int(ranks[1] < ranks[0])


def _numbers(node: Node) -> int:
    return math.prod(node.shape)


def _rank(graph: Graph, node: Node) -> int:
    """From -1, a value that has been weighed, to 5, a softmax or sigmoid."""
    while node.op in _TRANSPARENT and len(node.inputs) == 1:
        node = graph.nodes[node.inputs[0]]
    if node.op in _PRODUCTS and len(node.inputs) > 1:
        return -1
    return next((rank for rank, ops in enumerate(_RANKS, 1) if node.op in ops), 0)
