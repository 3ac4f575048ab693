"""Which steps mix the images of a batch. Relevance and its books are kept apart for each, so these are refused.

Merging the batch with the dimension behind it, (N, k, ...) -> (N k, ...), keeps images apart.
"""

from __future__ import annotations

from typing import Any

from relprop.core.graph import Graph, Node

_BY_DIM = frozenset({"cat", "slice", "select", "mean", "sum", "flip"})


def mixing(graph: Graph) -> tuple[Node, ...]:
    """Steps whose value does not have the batch first, or that reach across it."""
    return tuple(node for node in graph.steps if _moves_batch(graph, node) or _reaches_across(graph, node))


def _moves_batch(graph: Graph, node: Node) -> bool:
    """Whether the batch is elsewhere than first, as far as shapes tell: they do where any batch size is served."""
    if not graph.any_batch or not node.shape:
        return False
    return node.shape[0] is not None or None in node.shape[1:]


def _reaches_across(graph: Graph, node: Node) -> bool:
    if node.op == "repeat":
        repeats: list[int] = node.args[1]
        return len(repeats) == len(node.shape or ()) and repeats[0] != 1
    rank = len(graph.nodes[node.inputs[0]].shape or ())
    if node.op not in _BY_DIM or rank == 0 or (node.op == "slice" and _is_whole(node)):
        return False
    default = None if node.op in ("mean", "sum") else 0
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", default)
    if not dims and not isinstance(dims, int):  # no dimension named: all
        return True
    return any(dim % rank == 0 for dim in ([dims] if isinstance(dims, int) else dims))


def _is_whole(node: Node) -> bool:
    """Whether a slice takes everything, as `x[:, :, ::2]` does of the batch."""
    start, end, stride = (*node.args[2:5], None, None, None)[:3]
    return start in (None, 0) and (end is None or (isinstance(end, int) and end >= 2**62)) and stride in (None, 1)
