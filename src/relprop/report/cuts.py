"""Cuts of a network: places that everything passes, at which relevance can be looked at."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from relprop.core.graph.ops import COPIES, ELEMENTWISE
from relprop.report.book import block_of

if TYPE_CHECKING:
    from torch import Tensor

    from relprop.core.graph.graph import Graph, Node

MOST = 24
"""Stops of a walk through a network; more are thinned out evenly."""


def cuts(graph: Graph, depth: int = 3, most: int = MOST) -> list[str]:
    """Names of steps through which all relevance goes, from the image (called "input") towards the output.

    Every path from the image to the output passes such a step, so what lies there is the whole. A block (`depth` parts
    of a name) is shown by the last of its cuts; only values that have rows and columns count.
    """
    found: list[Node] = []
    reach = 0  # the latest use of any value so far
    for node in graph.nodes:
        if reach <= node.index and _is_map(node):
            found.append(node)
        reach = max([reach, *graph.consumers[node.index]])
    last = [node for node, after in pairwise(found) if not _same_place(node, after, depth)] + found[-1:]
    names = ["input" if node.index == 0 else node.name for node in last]
    if len(names) <= most:
        return names
    return [names[round(at * (len(names) - 1) / (most - 1))] for at in range(most)]


def heat(relevance: Tensor) -> Tensor:
    """Sum relevance (N, C, H, H), or (N, H, H, C) as transformers have it, over its channels: (N, H, H)."""
    return relevance.sum(1 if relevance.shape[-1] == relevance.shape[-2] else -1)


def _is_map(node: Node) -> bool:
    """Whether it has square maps of more than one value, and is more than a copy: (N, C, H, H) or (N, H, H, C)."""
    shape = node.shape or ()
    return len(shape) == 4 and node.op not in COPIES and (shape[2] == shape[3] != 1 or shape[1] == shape[2] != 1)


def _same_place(node: Node, after: Node, depth: int) -> bool:
    """Whether the later of two neighbouring cuts can stand for both: of one block, or a layer and its activation."""
    block = block_of(node.name, depth)
    if "." in block and block == block_of(after.name, depth):
        return True
    return node.shape == after.shape and after.op in ELEMENTWISE
