"""Batch norm as part of the weighted layer before it: one layer with other weights, computed in one go.

    γ (W h + b - μ) / σ + β  =  W' h + b',   W' = W γ / σ,   b' = β + (b - μ) γ / σ,   σ = √(variance + ε)

A composite with `batch_norm="fold"` lets the rules see W'.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from relprop.core.graph.convolution import conv_geometry
from relprop.core.graph.graph import Graph, Node, State, bind
from relprop.core.graph.ops import AFFINE
from relprop.core.weights.prepared import Derived, Prepared


def find_folds(graph: Graph) -> dict[int, int]:
    """Batch norms that alone read the weighted layer before them, by that layer."""
    return {
        node.inputs[0]: node.index
        for node in graph.steps
        if node.op == "batch_norm"
        and _takes_bias(graph.nodes[node.inputs[0]])
        and _are_states(node.args[1:5])
        and graph.consumers[node.inputs[0]] == (node.index,)
    }


def _takes_bias(node: Node) -> bool:
    """Whether a step is a weighted layer called as (input, weight, bias, ...), with weights as the model holds them."""
    if node.op not in AFFINE or node.call._schema.name == "aten::addmm":  # type: ignore[attr-defined]
        return False
    return _are_states(node.args[1:3])


def _are_states(arguments: tuple[object, ...]) -> bool:
    """Whether all are the model's own weights, or absent; one that it computes first (weight norm) is neither."""
    return all(argument is None or (isinstance(argument, State) and argument.kept) for argument in arguments)


def folded(layer: Node, norm: Node, state: Mapping[str, Tensor], prepared: Prepared) -> tuple[Derived, Tensor]:
    """Weight and bias of a layer with the batch norm behind it folded in."""
    weight, bias = (_value(argument, state) for argument in (*layer.args[1:3], None)[:2])
    scale_, shift_, mean, variance = (_value(argument, state) for argument in norm.args[1:5])
    eps: float = norm.args[6]
    assert weight is not None
    assert mean is not None
    assert variance is not None
    sources = tuple(t for t in (weight, bias, scale_, shift_, mean, variance) if t is not None)

    def scale() -> Tensor:
        deviation = (variance + eps).sqrt()
        return 1 / deviation if scale_ is None else scale_ / deviation

    def new_bias() -> Tensor:
        less_mean = -mean if bias is None else bias - mean
        return less_mean * scale() if shift_ is None else shift_ + less_mean * scale()

    return (
        Derived(f"weight folded with {norm.name}, {eps}", sources, lambda: _scaled(layer, weight, scale()), weight),
        prepared.get(layer.args[1].name, f"bias folded with {norm.name}, {eps}", sources, new_bias),
    )


def _value(argument: object, state: Mapping[str, Tensor]) -> Tensor | None:
    return state[argument.name] if isinstance(argument, State) else None


def _scaled(layer: Node, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with each output channel scaled; where transposed, outputs are the second dimension of each group."""
    if layer.op != "conv_transpose":
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    groups = conv_geometry(layer.call, bind(layer.args, lambda _: weight)).groups
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    per_output = scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (grouped * per_output).reshape(weight.shape)
