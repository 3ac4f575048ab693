"""Which composite a network takes where none is named, by what its graph contains; each with its source.

All of these conserve. `attnlrp()` is there for comparison: it is signed, and absorbs at every softmax and bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from relprop.core.composites.composite import Composite
from relprop.core.composites.presets import paper, transformer
from relprop.core.graph.graph import Graph


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        name: for the reader.
        composite: makes the rules that it takes.
        source: what these add to the paper's, and whence.
    """

    name: str
    composite: Callable[[], Composite]
    source: str


TRANSFORMER = Family(
    "transformer",
    transformer,
    "attention weights taken as constants (Ali et al. 2022), layer norm passes (Achtibat et al. 2024)",
)
GATED = Family("gated network", paper, "gates take nothing, their signal all (Arras et al. 2017)")
CONVOLUTIONAL = Family("convolutional network", paper, "the paper's own (Otsuki et al. 2024)")


FAMILIES = (TRANSFORMER, GATED, CONVOLUTIONAL)


def family_of(graph: Graph) -> Family:
    """The family of a network: by its attention, else by its products; anything else is convolutional."""
    several = {node.op for node in graph.steps if len(node.inputs) > 1}
    if "scaled_dot_product_attention" in several or several & {"matmul", "bmm", "einsum"}:
        return TRANSFORMER
    return GATED if several & {"mul", "div", "gated"} else CONVOLUTIONAL
