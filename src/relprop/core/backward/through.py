"""Relevance through some channels of a layer alone: what goes through the others ends there.

    R'_c = R_c for the channels c that are named, 0 for all others

The backward pass is linear in relevance below the layer, so the maps of all channels of a separator layer add up to the
map. What ends at a layer is a line of its own in the ledger, as absorbed relevance.
Source: conditional relevance, Achtibat et al. 2023 (arXiv 2206.03208), Eq. 7.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from relprop.core.backward.ledger import Entry
from relprop.core.backward.pending import Pending
from relprop.core.graph.batch_axis import FIRST, Place
from relprop.core.graph.graph import Graph
from relprop.core.graph.separators import find_separators
from relprop.errors import UsageError

Channels = int | Sequence[int]
#: channels of each layer that is named; or several of these, for a map each
Through = Mapping[str, Channels] | Sequence[Mapping[str, Channels]]


@dataclass(frozen=True)
class Gate:
    """The channels of one tensor through which relevance goes on.

    Attributes:
        layer: the tensor's name, as it was given.
        channels: theirs, along the second axis of the tensor.
    """

    layer: str
    channels: tuple[int, ...]

    def pass_on(self, here: Pending) -> tuple[Pending, Entry | None]:
        """What goes on, and the ledger's line for what does not (None where no ledger is kept)."""
        mask = here.relevance.new_zeros(here.relevance.shape[1])
        mask[list(self.channels)] = 1
        left = here.relevance * mask.view(-1, *[1] * (here.relevance.dim() - 2))
        if here.total is None:
            return replace(here, relevance=left, owned=True), None
        total = here.place.total(left, len(here.total))
        line = Entry(
            f"{self.layer}, other channels", "through", "ends here", False, here.total, total, here.magnitude()
        )
        return replace(here, relevance=left, total=total, owned=True), line


#: gates by the number of their node
Gates = Mapping[int, Gate]


def gates_of(through: Through, graph: Graph, places: Sequence[Place]) -> tuple[Gates, ...]:
    """The gates of each of the maps that are asked for.

    Args:
        through: channels by layer; a layer is named as in `Graph.tensor`, "NAME@input" is what enters it, and "late"
            and the like are as in `Separators.expand`.
        graph: of the run.
        places: where the batch lies in each value.

    Raises:
        UsageError: no layer or channel of that name; several maps that do not name the same layers.
    """
    several = [through] if isinstance(through, Mapping) else list(through)
    if not several or not all(isinstance(one, Mapping) and one for one in several):
        raise UsageError(
            f"through must name channels by layer, as in {{'layer4.1': [17, 301]}}, or be a list of these, "
            f"not {through!r}"
        )
    found = tuple(_gates(one, graph, places) for one in several)
    for other in found[1:]:
        if other.keys() != found[0].keys():
            names = [", ".join(gate.layer for gate in gates.values()) for gates in (found[0], other)]
            raise UsageError(
                f"all maps of one call go through the same layers, and through names {names[0]} for one and {names[1]} "
                "for another; make a call for each"
            )
    return found


def _gates(through: Mapping[str, Channels], graph: Graph, places: Sequence[Place]) -> dict[int, Gate]:
    gates: dict[int, Gate] = {}
    for layer, channels in through.items():
        index = tensor_of(graph, layer)
        shape = graph.nodes[index].shape
        if index in gates:
            raise UsageError(f"{gates[index].layer!r} and {layer!r} are the same tensor; name it once in through")
        if len(shape) < 2 or places[index] != FIRST:
            raise UsageError(f"what leaves {layer!r} has the shape {tuple(shape)}: its second axis holds no channels")
        gates[index] = Gate(layer, read_channels(channels, shape[1], layer))
    return gates


def tensor_of(graph: Graph, layer: str) -> int:
    """The node of a layer's tensor: what leaves it, or of "NAME@input" what enters it.

    Raises:
        UsageError: there is no such layer, or more than one tensor leaves it.
    """
    own = layer.removesuffix("@input")
    names = (layer,) if own in graph.by_name or own in graph.modules else find_separators(graph).expand(layer)
    if len(names) > 1:
        raise UsageError(f"{layer!r} stands for {len(names)} layers; name one of {', '.join(names)}")
    name = names[0].removesuffix("@input")
    return graph.tensor(name, "output" if name == names[0] else "input")


def read_channels(channels: Channels, count: int, layer: str) -> tuple[int, ...]:
    """Check the channels of a layer that has `count`; a negative one counts from the end.

    Raises:
        UsageError: none, one that there is not, one twice, or something that is no whole number.
    """
    try:
        given = channels.tolist() if isinstance(channels, torch.Tensor) else channels
        numbers = [operator.index(c) for c in (given if isinstance(given, Sequence) else [given])]
    except TypeError:
        raise UsageError(f"channels of {layer!r} must be whole numbers, as in [17, 301]; not {channels!r}") from None
    outside = [number for number in numbers if not -count <= number < count]
    if outside or not numbers:
        found = f"no channel {outside[0]}" if outside else "none was named"
        raise UsageError(f"channels of {layer!r} are 0 to {count - 1}: {found}")
    places = tuple(number % count for number in numbers)
    if len({*places}) < len(places):
        raise UsageError(f"channels of {layer!r} must be named once each, not {list(numbers)}")
    return places
