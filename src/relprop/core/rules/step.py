"""A step of a forward run with its values: what a rule sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from relprop.core.graph.graph import Node
from relprop.core.graph.support import Support
from relprop.core.weights.prepared import Prepared


def is_fake(value: Tensor) -> bool:
    """Whether it has a shape and no data, as values have while a graph is made: code may not branch on it then."""
    return isinstance(value, FakeTensor)


@dataclass(frozen=True)
class Absent:
    """Stands in a step's arguments for an input that depends on the image: `Step.inputs` has its value, if anything."""

    shape: torch.Size


@dataclass(frozen=True, eq=False)
class Step:
    """A node bound to the values of one run: what a rule sees.

    Attributes:
        node: the operation.
        inputs: value of each input that depends on the image, None where the rule reads none.
        output: the value, None where the rule does not read it.
        args, kwargs: arguments, with weights in place, and `Absent` for each input.
        shapes: shape of each input.
        nonnegative: for each input, whether it can have no negative value.
        supports: for each input, the positions that depend on the image; None means all.
        prepared: cache of what derives from weights alone.
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    output: Tensor | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[torch.Size, ...]
    nonnegative: tuple[bool, ...]
    supports: tuple[Support, ...]
    prepared: Prepared

    @property
    def input(self) -> Tensor:
        """Value of the one input."""
        value = self.inputs[0]
        assert value is not None, f"the rule at {self.node.name} reads an input that it did not ask for"
        return value
