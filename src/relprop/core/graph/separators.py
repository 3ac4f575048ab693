"""Separator layers: tensors that all relevance passes on its way.

A tensor separates the image from the scores where every way between them leads through it. All of these hold the same
total, the score less what rules absorb above them, so a map can be read
from several (`relprop.core.result.combine`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from relprop.core.graph.graph import Graph
from relprop.core.graph.joins import find_joins
from relprop.errors import UsageError

_INPUT = "@input"
_ASPECT = 4 / 3  # a map may depart from the image's proportions by padding and rounding; channels in place of
# columns, as some transformers keep them, depart from it by more


@dataclass(frozen=True)
class Separators:
    """The separator layers of one network that hold a map, by name.

    Attributes:
        positions: position of each name's tensor, counted from the image, which is at 0. "layer4.2" is what leaves a
            layer, "layer4.2@input" what enters it; several names can have the same position.
        blocks: paths of the residual blocks, and of the modules named like them, in order.
    """

    positions: Mapping[str, int]
    blocks: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """What a manifest holds of them."""
        return {"places": dict(self.positions), "blocks": list(self.blocks)}

    def expand(self, name: str) -> tuple[str, ...]:
        """The names that a short name stands for; any other stands for itself.

        `last-block` is the output of the last block and `last-block@input` its input, `blocks` the inputs of all,
        `last-map` the last layer before positions are lost, `late` the input of the last block, and `late-blocks` the
        inputs of the last third of the blocks and the last map. The last map stands for the latter two in a network
        without blocks.

        Raises:
            UsageError: the network has no such thing.
        """
        if name == "late":
            name = f"last-block{_INPUT}" if self.blocks else "last-map"
        if name == "last-map":
            last = max(self.positions.values())
            return (min((n for n, position in self.positions.items() if position == last), key=_plainness),)
        if name == "late-blocks":
            late = self.blocks[len(self.blocks) - max(1, len(self.blocks) // 3) :] if self.blocks else ()
            return (*(f"{block}{_INPUT}" for block in late), *self.expand("last-map"))
        if name not in ("blocks", "last-block", f"last-block{_INPUT}"):
            return (name,)
        if not self.blocks:
            raise UsageError(f"no residual block of this network is a module of its own, so it has no {name!r}; {self}")
        if name == "blocks":
            return tuple(f"{block}{_INPUT}" for block in self.blocks)
        return (name.replace("last-block", self.blocks[-1]),)

    def position(self, name: str) -> int:
        """Position of a separator layer.

        Raises:
            UsageError: it is none, or holds no map.
        """
        if name in self.positions:
            return self.positions[name]
        raise UsageError(
            f"{name!r} is no separator layer that holds a map: not all relevance passes it, or its positions are not "
            f"the image's, or there is no such layer; {self.near(name)}"
        )

    def near(self, name: str) -> str:
        """Say which layers there are, those spelled like `name` first."""
        close = difflib.get_close_matches(name, self.positions, n=4, cutoff=0.5)
        return f"near it: {', '.join(close)}; {self}" if close else str(self)

    def __str__(self) -> str:
        """All of them in words, each under its plainest name."""
        plainest: dict[int, str] = {}
        for name in sorted(self.positions, key=_plainness, reverse=True):
            plainest[self.positions[name]] = name
        return f"separator layers are {', '.join(plainest[position] for position in sorted(plainest))}"


def _plainness(name: str) -> tuple[bool, int, str]:
    """Sorts outputs before inputs, and modules before the steps within them."""
    return name.endswith(_INPUT), name.count(".") + 2 * name.count("@"), name


@lru_cache(maxsize=32)  # a graph holds no tensors
def find_separators(graph: Graph) -> Separators:
    """Name the separator layers of a graph that hold a map (N, C, h, w), no larger than the image and shaped alike."""
    maps = {index: position for position, index in enumerate(separators(graph)) if _is_map(graph, index)}
    positions = {"input": 0}
    for name in (*(node.name for node in graph.steps), *graph.modules):
        for side, index in reversed(graph.sides(name).items()):
            if index in maps:
                positions[name if side == "output" else f"{name}{_INPUT}"] = maps[index]
    return Separators(positions, _blocks(graph, positions))


def separators(graph: Graph) -> list[int]:
    """Nodes that every way from the image to the output passes, in order; both ends included.

    A node lies on (ways to it) x (ways from it) of the ways: on all of them where that is their number. Exact, since
    Python's integers are.
    """
    before, behind = [0] * len(graph), [0] * len(graph)
    before[0] = behind[graph.output] = 1
    for node in graph.steps:
        before[node.index] = sum(before[source] for source in node.inputs)
    for node in reversed(graph.steps):
        for source in node.inputs:
            behind[source] += behind[node.index]
    return [index for index in range(len(graph)) if before[index] * behind[index] == behind[0]]


def _is_map(graph: Graph, index: int) -> bool:
    image, shape = graph.nodes[0].shape, graph.nodes[index].shape
    if len(shape) != 4 or len(image) != 4:
        return False
    (height, width), (h, w) = image[2:], shape[2:]
    alike = 1 / _ASPECT <= (h * width) / (w * height) <= _ASPECT
    return h <= height and w <= width and h * w > 1 and alike


def _blocks(graph: Graph, positions: Mapping[str, int]) -> tuple[str, ...]:
    """Modules that hold a join and are separated on both sides, and those whose paths differ from theirs by numbers.

    The latter are the blocks of the same family that have no skip, as where the stride is two.
    """

    def is_block(path: str) -> bool:
        return path in positions and f"{path}{_INPUT}" in positions

    holders: set[str] = set()
    for join in find_joins(graph).values():
        paths = [path for _, path in graph.nodes[join.node].scopes if path and is_block(path)]
        holders.update(map(_pattern, paths[-1:]))
    return tuple(path for path in graph.modules if _pattern(path) in holders and is_block(path))


def _pattern(path: str) -> str:
    return re.sub(r"\d+", "#", path)
