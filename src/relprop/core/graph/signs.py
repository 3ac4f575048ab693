"""Which values can be negative nowhere: then the z⁺-rule needs the positive part of the weights alone."""

from __future__ import annotations

from relprop.core.graph.graph import Graph, Node
from relprop.core.graph.ops import COPIES

_MAKES = frozenset(
    {"relu", "relu6", "sigmoid", "softmax", "hardsigmoid", "abs", "square", "exp", "softplus", "_safe_softmax"}
)
_KEEPS = COPIES | {
    "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean", "sum", "dropout", "clone", "contiguous",
    "detach", "alias", "to", "identity", "leaky_relu", "elu", "hardswish", "silu", "gelu", "hardtanh", "clamp",
}  # fmt: skip


def nonnegative(graph: Graph) -> tuple[bool, ...]:
    """For each node, whether its value is >= 0 for every image."""
    known = [False] * len(graph)
    for node in graph.steps:
        known[node.index] = _of(node, graph, known)
    return tuple(known)


def _of(node: Node, graph: Graph, known: list[bool]) -> bool:
    if node.op in _MAKES:
        return True
    below = all(known[i] for i in node.inputs)
    if node.op in ("hardtanh", "clamp", "clamp_min"):
        lower, upper = _bounds(node)
        return (below or lower >= 0) and upper >= 0
    if node.op == "pad":
        value = node.kwargs.get("value", node.args[-1] if len(node.args) > 2 else 0)
        return below and (isinstance(value, str) or value is None or value >= 0)
    if node.op == "add" and len(node.inputs) > 1:
        return below and node.kwargs.get("alpha", 1) >= 0
    if node.op == "mul" and len(node.inputs) > 1:
        return below
    if node.op == "cat":
        return below and len(node.args[0]) == len(node.inputs)
    return below and node.op in _KEEPS


def _bounds(node: Node) -> tuple[float, float]:
    """Least and largest value that a step lets through, as far as it is a plain number."""
    lowest, highest = (-1.0, 1.0) if node.op == "hardtanh" else (None, None)
    lower, upper = (*node.args[1:3], None, None)[:2] if len(node.args) > 1 else (lowest, highest)
    lower, upper = (
        node.kwargs.get(f"{end}_val", node.kwargs.get(end, b)) for end, b in (("min", lower), ("max", upper))
    )
    least = float(lower) if isinstance(lower, int | float) else float("-inf")
    if upper is None:
        return least, float("inf")
    return least, float(upper) if isinstance(upper, int | float) else float("-inf")
