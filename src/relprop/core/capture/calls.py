"""What is known of an ATen operation before it is called: its name, what it writes to, its form without writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.capture.recurrent import RECURRENT
from relprop.core.capture.scripted import Scopes
from relprop.core.graph.ops import CONSTANT, canonical

aten = torch.ops.aten


class Call(NamedTuple):
    """One call of an ATen operation in its functional form; equal calls make equal graphs.

    Attributes:
        func: the operation.
        args: its arguments: a `Ref` for a value of the run, a `State` for a weight or constant, or what they are.
        kwargs: (name, argument) pairs.
        results: number of each value that it returned, None for what carries no relevance.
        single: whether it returns one tensor, and not several.
        sizes: of each result; they say which part of a tensor each result of a split is.
        scopes: (call, path) of each module call around it, outermost first.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    results: tuple[int | None, ...]
    single: bool
    sizes: tuple[tuple[int, ...], ...]
    scopes: Scopes


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of an operation.

    Attributes:
        op: canonical name.
        writes: positions and names of the arguments that it writes to.
        functional: the operation that computes the same without writing; None where there is none.
        mode: position of the argument that says whether it runs as in training; None where it has none.
        constant: whether its value depends on none of its arguments' values.
        quantized: whether its weights are packed integers.
        typed: whether an argument names a type of numbers.
        indexes: whether it may take masks as indices, see `plain`.
        fused: what it is run as, if that is not what it is.
    """

    op: str
    writes: tuple[int | str, ...]
    functional: Callable[..., Any] | None
    mode: int | None
    constant: bool
    quantized: bool
    typed: bool
    indexes: bool
    fused: Callable[..., Any] | None


def facts_of(func: Any) -> Facts:
    """What is known of an operation; found by its identity, since its hash is computed in Python."""
    known = _FACTS.get(id(func))
    if known is None:
        known = _FACTS[id(func)] = func, _facts_of(func)
    return known[1]


#: facts by the identity of an operation, which is held so that it keeps it
_FACTS: dict[int, tuple[Any, Facts]] = {}


def _facts_of(func: Any) -> Facts:
    """Read an operation's facts off its schema."""
    schema = func._schema
    op = canonical(schema.name)
    writes: list[int | str] = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            writes.append(argument.name if argument.kwarg_only else place)
    names = [argument.name for argument in schema.arguments]
    mode = next((names.index(name) for name in ("training", "train") if name in names), None)
    quantized = schema.name.split("::")[0] in ("quantized", "onednn") or "quantize" in schema.name
    functional = _functional(func) if writes else func
    typed = any("dtype" in name for name in names)
    indexes = schema.name.startswith(("aten::index", "aten::_index", "aten::_unsafe_index", "aten::masked_select"))
    return Facts(op, tuple(writes), functional, mode, op in CONSTANT, quantized, typed, indexes, FUSED.get(func))


def _functional(func: Any) -> Callable[..., Any] | None:
    """`add_.Tensor` -> `add.Tensor`, `add.out` -> `add.Tensor`, or None."""
    space, name = func._schema.name.split("::")
    packet = getattr(getattr(torch.ops, space), name.rstrip("_") or name, None)
    if packet is None:
        return None
    mine = func._schema.overload_name
    for overload in (mine, mine.removesuffix("_out"), "default", "Tensor"):
        found = getattr(packet, overload or "default", None) if (overload or "default") in packet.overloads() else None
        if found is not None and not found._schema.is_mutable:
            return found  # type: ignore[no-any-return]
    return None


def parts_of(func: Any) -> Callable[..., Any] | None:
    """What torch says that an operation is made of (`expand_as` of `expand`); None where it says nothing."""
    if func._can_decompose():
        return func.decompose  # type: ignore[no-any-return]
    return torch._decomp.decomposition_table.get(func)


def attention(
    query: Tensor, key: Tensor, value: Tensor, dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor,
    weight: Tensor, bias: Tensor, mask: Tensor | None = None, need_weights: bool = True,
    average: bool = True, mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`_native_multi_head_attention` by the operations that it is made of, which have rules: (N, T, D) -> (N, T, D)."""
    parts = zip((query, key, value), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True)
    q, k, v = (F.linear(x, w, b).view(*x.shape[:-1], heads, -1).transpose(1, 2) for x, w, b in parts)
    if mask is not None:
        mask = mask[:, None, None] if mask_type == 1 else mask
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(mask.bool(), -torch.inf)
    mixed = F.scaled_dot_product_attention(q, k, v, mask)
    result = F.linear(mixed.transpose(1, 2).flatten(2), weight, bias)
    if not need_weights:
        return result, None
    scores = q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return result, weights.mean(1) if average else weights


def encoder_layer(
    src: Tensor, dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor,
    gelu: bool, norm_first: bool, eps: float, norm_1: Tensor, shift_1: Tensor, norm_2: Tensor, shift_2: Tensor,
    weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    """`_transformer_encoder_layer_fwd` by the operations that it is made of: (N, T, D) -> (N, T, D)."""

    def attend(x: Tensor) -> Tensor:
        return attention(
            x, x, x, dim, heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, False, True, mask_type
        )[0]

    def feed(x: Tensor) -> Tensor:
        hidden = F.linear(x, weight_1, bias_1)
        return F.linear(F.gelu(hidden) if gelu else F.relu(hidden), weight_2, bias_2)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (dim,), weight, bias, eps)

    if norm_first:
        src = src + attend(norm(src, norm_1, shift_1))
        return src + feed(norm(src, norm_2, shift_2))
    src = norm(src + attend(src), norm_1, shift_1)
    return norm(src + feed(src), norm_2, shift_2)


def variance(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    """`var` by the operations that it is made of."""
    deviation = x - x.mean(dim, keepdim=True)
    count = x.numel() // max(deviation.sum(dim).numel(), 1)
    return deviation.square().sum(dim, keepdim=keepdim) / max(count - (1 if correction is None else correction), 0)


#: fused operations that are run as what they are made of
FUSED: dict[Any, Callable[..., Any]] = RECURRENT | {
    aten.var.correction: variance,
    aten.type_as.default: lambda x, other: x.to(other.dtype),
    aten._native_multi_head_attention.default: attention,
    aten._transformer_encoder_layer_fwd.default: encoder_layer,
}


def plain(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The same call with places in the place of masks, whose shapes are known without data."""
    name = func._schema.name
    if func is aten.masked_select.default:
        value, mask = torch.broadcast_tensors(*args)  # type: ignore[no-untyped-call]
        return aten.index.Tensor, (value, [*mask.nonzero().unbind(1)]), {}
    if name.startswith(("aten::index", "aten::_index", "aten::_unsafe_index")):
        return func, _without_masks(args), kwargs
    return func, args, kwargs


def _without_masks(args: Any) -> Any:
    if len(args) < 2 or not isinstance(args[1], list | tuple):
        return args
    places: list[Tensor | None] = []
    for index in args[1]:
        masks = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        places += [*index.nonzero().unbind(1)] if masks else [index]
    return (args[0], places, *args[2:])
