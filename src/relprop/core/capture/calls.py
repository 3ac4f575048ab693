"""What is known of an ATen operation before it is called: its name, what it writes to, its form without writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relprop.core.capture.parts import FUSED
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
        indexes: whether it may take masks as indices, or strides, see `plain`.
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
    indexes = schema.name.startswith(
        ("aten::index", "aten::_index", "aten::_unsafe_index", "aten::masked_select", "aten::as_strided")
    )
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


def plain(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The same call with places in the place of masks, whose shapes are known without data.

    `as_strided` that changes nothing but the strides of dimensions of one, as pooling under `vmap` does, is an alias.
    """
    name = func._schema.name
    if func in (aten.as_strided.default, aten.as_strided_.default) and _changes_nothing(*args, **kwargs):
        return aten.alias.default, args[:1], {}
    if func is aten.masked_select.default:
        value, mask = torch.broadcast_tensors(*args)  # type: ignore[no-untyped-call]
        return aten.index.Tensor, (value, [*mask.nonzero().unbind(1)]), {}
    if name.startswith(("aten::index", "aten::_index", "aten::_unsafe_index")):
        return func, _without_masks(args), kwargs
    return func, args, kwargs


def _changes_nothing(x: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> bool:
    """Whether `as_strided` shows a tensor as it is."""
    same = all(n < 2 or new == old for n, new, old in zip(x.shape, stride, x.stride(), strict=False))
    return tuple(size) == tuple(x.shape) and same and storage_offset in (None, x.storage_offset())


def _without_masks(args: Any) -> Any:
    if len(args) < 2 or not isinstance(args[1], list | tuple):
        return args
    places: list[Tensor | None] = []
    for index in args[1]:
        masks = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        places += [*index.nonzero().unbind(1)] if masks else [index]
    return (args[0], places, *args[2:])
