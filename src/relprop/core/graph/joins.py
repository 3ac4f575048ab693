"""Where branches of a network meet, and which of them are skips: found from the graph, not from names.

A join is a sum of two or more values that all depend on the image. A chain of sums whose intermediate results
are used once is one join of several branches. Sums with a bias or a positional constant are none.
"""

from __future__ import annotations

from dataclasses import dataclass

from relprop.core.graph.graph import Graph, states
from relprop.core.graph.ops import AFFINE

SUMS = frozenset({"add", "sub"})


@dataclass(frozen=True)
class Join:
    """A sum of branches.

    Attributes:
        node: the sum whose value is the join's.
        branches: the nodes that are summed, in the order of the code.
        scales: factor of each branch in the sum: -1 where subtracted, ATen's `alpha` else.
        fork: the last node that all branches come from.
        skips: for each branch, whether it is a skip: the fork itself, or else the branch that fewer weighted
            layers separate from the fork than every other.
        identities: for each branch, whether it is a skip without parameters (slices and zero padding included).
        inner: the partial sums between its branches and its value.
    """

    node: int
    branches: tuple[int, ...]
    scales: tuple[float, ...]
    fork: int
    skips: tuple[bool, ...]
    identities: tuple[bool, ...]
    inner: tuple[int, ...] = ()


def find_joins(graph: Graph) -> dict[int, Join]:
    """All joins of a graph, by the node that holds their value."""
    sums = {n.index for n in graph.steps if n.op in SUMS and len(n.inputs) > 1}
    inner = {i for i in sums if len(graph.consumers[i]) == 1 and graph.consumers[i][0] in sums and i != graph.output}
    ancestors = _ancestors(graph)
    return {i: _join(graph, i, inner, ancestors) for i in sorted(sums - inner)}


def _ancestors(graph: Graph) -> list[int]:
    """For each node the set of nodes it comes from, itself included, as the bits of an integer."""
    known = [0] * len(graph)
    for node in graph.nodes:
        bits = 1 << node.index
        for source in node.inputs:
            bits |= known[source]
        known[node.index] = bits
    return known


def _join(graph: Graph, root: int, inner: set[int], ancestors: list[int]) -> Join:
    partial: list[int] = []
    terms = _terms(graph, root, 1.0, inner, partial)
    branches = tuple(index for index, _ in terms)
    common = -1
    for branch in branches:
        common &= ancestors[branch]
    fork = common.bit_length() - 1  # the latest, since indices follow the order of execution
    if fork in branches and any(branch != fork for branch in branches):
        skips = tuple(branch == fork for branch in branches)
    else:
        ways = [_between(graph, fork, branch, ancestors) for branch in branches]
        weights = [sum(graph.nodes[i].op in AFFINE for i in way) for way in ways]
        skips = tuple(weight == min(weights) and weights.count(weight) == 1 for weight in weights)
    identities = tuple(s and _parameter_free(graph, fork, b, ancestors) for s, b in zip(skips, branches, strict=True))
    return Join(root, branches, tuple(scale for _, scale in terms), fork, skips, identities, tuple(partial))


def _terms(graph: Graph, index: int, scale: float, inner: set[int], partial: list[int]) -> list[tuple[int, float]]:
    """Flatten a chain of sums into its terms and their factors; take note of its partial sums."""
    node = graph.nodes[index]
    second = float(node.kwargs.get("alpha", 1)) * (-1 if node.op == "sub" else 1)
    terms = []
    for source, factor in zip(node.inputs, (scale, scale * second), strict=True):
        if source in inner:
            partial.append(source)
            terms += _terms(graph, source, factor, inner, partial)
        else:
            terms.append((source, factor))
    return terms


def _between(graph: Graph, fork: int, branch: int, ancestors: list[int]) -> list[int]:
    """The nodes on the ways from the fork (left out) to the branch."""
    return [i for i in range(fork + 1, branch + 1) if ancestors[branch] >> i & 1 and ancestors[i] >> fork & 1]


def _parameter_free(graph: Graph, fork: int, branch: int, ancestors: list[int]) -> bool:
    """Whether nothing learned lies between fork and branch."""
    between = (graph.nodes[i] for i in _between(graph, fork, branch, ancestors))
    return not any(state.learned for node in between for state in states((node.args, node.kwargs)))
