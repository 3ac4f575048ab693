"""The forward run, planned once: what to compute, along with what, when to forget it, and what may be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.folding import find_folds, folded
from relprop.core.geometry import conv_geometry
from relprop.core.graph import Graph, Node, Ref, State, bind, refs
from relprop.core.prepared import Prepared, like
from relprop.core.trace import Trace

#: operations whose value shares no memory with their inputs
_FRESH = frozenset({"conv", "conv_transpose", "linear", "batch_norm", "add", "sub"})
_IN_PLACE: Mapping[str, Callable[..., Tensor]] = {
    "relu": torch.ops.aten.relu_.default,
    "hardtanh": torch.ops.aten.hardtanh_.default,
    "leaky_relu": torch.ops.aten.leaky_relu_.default,
    "silu": torch.ops.aten.silu_.default,
}


@dataclass(frozen=True, eq=False)
class Instruction:
    """One step of the forward run.

    Attributes:
        node: whose value it computes.
        call: with what; the in-place twin where nobody reads the input again.
        layer: the weighted layer that is computed along with this batch norm, if one is.
        frees: values that nobody reads after it.
    """

    node: Node
    call: Callable[..., Any]
    layer: Node | None
    frees: tuple[int, ...]


Program = tuple[Instruction, ...]


def make_program(graph: Graph, keep: frozenset[int]) -> Program:
    """Plan a run that leaves the values in `keep`."""
    layers = {norm: layer for layer, norm in find_folds(graph).items() if layer not in keep}
    frees = _frees(graph, keep, layers)
    instructions = []
    for node in graph.nodes[1:]:
        if node.index in layers.values():
            continue
        layer = graph.nodes[layers[node.index]] if node.index in layers else None
        call = node.call
        if node.op in _IN_PLACE and node.inputs and _alone(graph, node) and node.inputs[0] in frees[node.index]:
            call = _IN_PLACE[node.op]
        instructions.append(Instruction(node, call, layer, frees[node.index]))
    return tuple(instructions)


def _alone(graph: Graph, node: Node) -> bool:
    """Whether nothing else sees the memory of its input: another reader may have made a view of it."""
    source = node.inputs[0]
    return graph.nodes[source].op in _FRESH and graph.consumers[source] == (node.index,)


def _frees(graph: Graph, keep: frozenset[int], layers: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """For each node, the values that nobody reads after it. Sizes and constants are small, and stay."""
    last: dict[int, int] = {}
    for node in graph.nodes:
        read = graph.nodes[layers[node.index]] if node.index in layers else node
        if node.index not in layers.values():
            for index in refs((read.args, read.kwargs)):
                last[index] = node.index
    frees: dict[int, list[int]] = {node.index: [] for node in graph.nodes}
    for index, reader in last.items():
        if index not in keep and index != graph.output and graph.depends[index]:
            frees[reader].append(index)
    return {index: tuple(found) for index, found in frees.items()}


def run(program: Program, graph: Graph, state: Mapping[str, Tensor], image: Tensor, prepared: Prepared) -> Trace:
    """Compute the model's output, and the values that the program keeps.

    Args:
        program: from `make_program` of this graph.
        graph: what to compute.
        state: weights and constants by name.
        image: (N, ...) the input.
        prepared: cache of folded weights.
    """
    values: dict[int, Any] = {0: image}
    shapes: dict[int, torch.Size] = {0: image.shape}

    def value(argument: Ref | State) -> Any:
        return values[argument.index] if isinstance(argument, Ref) else state[argument.name]

    for instruction in program:
        node, layer = instruction.node, instruction.layer
        if layer is None:
            args = bind(node.args, value)
            if node.op == "conv" and isinstance(node.args[1], State):
                result = _convolved(node, args, prepared)
            else:
                result = instruction.call(*args, **bind(dict(node.kwargs), value))
        else:
            weight, bias = folded(layer, node, state, prepared)
            if layer.op == "conv":
                result = _convolved(layer, (value(layer.args[0]), weight, bias, *layer.args[3:]), prepared)
            else:
                made = prepared.numbers(layer.index, weight)
                result = layer.call(value(layer.args[0]), made, bias, *layer.args[3:], **layer.kwargs)
            shapes[layer.index] = result.shape
        values[node.index] = result
        if isinstance(result, Tensor):
            shapes[node.index] = result.shape
        for index in instruction.frees:
            del values[index]
    return Trace(values, shapes, values[graph.output])


def _convolved(node: Node, args: tuple[Any, ...], prepared: Prepared) -> Tensor:
    """W h + b of a convolution whose weight is the model's, or made from it."""
    value, weight, bias = (*args, None)[:3]
    geometry = conv_geometry(node, (value, like(weight), *args[2:]))
    return prepared.push(node.index, geometry, value, weight, bias, exact=True)
