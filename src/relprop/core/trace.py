"""One forward run of a graph, keeping the values that relevance will need and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from relprop.core.graph import Graph, Node, Ref, State, bind, refs
from relprop.core.support import Support


@dataclass
class Prepared:
    """What rules derive from weights alone (W+, ...), kept until a weight changes.

    A weight is known by its storage, its version (which every in-place update raises, `load_state_dict` and
    optimisers included), and a few of its numbers: writes through `weight.data` raise no version.
    """

    _kept: dict[tuple[int, str], tuple[tuple[Any, ...], Tensor]] = field(default_factory=dict)

    def get(self, node: int, name: str, sources: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return `make()`, from memory if the tensors it was made from are what they were."""
        stamp = tuple(part for source in sources for part in _stamp(source))
        known = self._kept.get((node, name))
        if known is None or known[0] != stamp:
            known = (stamp, make())
            self._kept[node, name] = known
        return known[1]


def _stamp(tensor: Tensor) -> tuple[Any, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device, tuple(tensor.shape)


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
        scale: batch-norm scale of each output channel, where one is folded into this step.
        shift: batch-norm shift likewise.
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
    scale: Tensor | None = None
    shift: Tensor | None = None

    @property
    def input(self) -> Tensor:
        """Value of the one input."""
        value = self.inputs[0]
        assert value is not None, f"the rule at {self.node.name} reads an input that it did not ask for"
        return value


@dataclass(eq=False)
class Trace:
    """Values of one run, by node.

    Attributes:
        values: those that were kept.
        shapes: of every tensor.
        output: the model's output.
    """

    values: dict[int, Any]
    shapes: dict[int, torch.Size]
    output: Tensor


def run(graph: Graph, state: Mapping[str, Tensor], image: Tensor, keep: frozenset[int]) -> Trace:
    """Compute every node in order; free each value after its last use unless it is in `keep`.

    Args:
        graph: what to compute.
        state: weights and constants by name.
        image: (N, ...) the input.
        keep: nodes whose values stay.
    """
    last_use = _last_uses(graph)
    values: dict[int, Any] = {0: image}
    shapes: dict[int, torch.Size] = {0: image.shape}

    def value(argument: Ref | State) -> Any:
        return values[argument.index] if isinstance(argument, Ref) else state[argument.name]

    for node in graph.nodes[1:]:
        result = node.call(*bind(node.args, value), **bind(dict(node.kwargs), value))
        values[node.index] = result
        if isinstance(result, Tensor):
            shapes[node.index] = result.shape
        for index in last_use.get(node.index, ()):
            if index not in keep and graph.depends[index]:
                del values[index]
    return Trace(values, shapes, values[graph.output])


def _last_uses(graph: Graph) -> dict[int, list[int]]:
    """For each node, the values that nobody reads after it."""
    last: dict[int, int] = {}
    for node in graph.nodes:
        for index in refs((node.args, node.kwargs)):
            last[index] = node.index
    uses: dict[int, list[int]] = {}
    for index, node_index in last.items():
        if index != graph.output:
            uses.setdefault(node_index, []).append(index)
    return uses
