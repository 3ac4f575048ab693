"""The calls of one run, and whether another run made the same.

A tape holds for every input on which the model makes the same calls. Numbers that grow with the batch (the sizes of a
view) are found by two runs, of a batch and of all of it twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from relprop.core.graph import Ref, State
from relprop.core.scripted import Scopes


class Size(NamedTuple):
    """A whole number in a call that grows with the batch: `per` for each image, and `plus`."""

    per: int
    plus: int


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an ATen operation.

    Attributes:
        func: the operation.
        leaves: its arguments, flattened: a `Ref` for a value of the run, a `State` for a weight or constant, a `Size`,
            or what it is.
        spec: how the leaves make up (args, kwargs).
        results: indices of the tensors that it returned.
        scopes: (call, path) of each module call around it, outermost first.
        trace: the line of the user's code that asked for it, as Python prints it in tracebacks.
    """

    func: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec
    results: tuple[int, ...]
    scopes: Scopes
    trace: str

    def arguments(self, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs), with `value(leaf)` for each `Ref`, `State` and `Size`."""
        leaves = [value(leaf) if isinstance(leaf, Ref | State | Size) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return args, kwargs


@dataclass(frozen=True, eq=False)
class Tape:
    """The calls of one run.

    Attributes:
        calls: in order.
        output: index of the scores.
        count: size of the batch.
        constants: tensors that are neither the run's nor the model's, by name.
        scores: (N, ...) what the model returned.
        any_batch: whether it holds for batches of any size.
    """

    calls: tuple[Call, ...]
    output: int
    count: int
    constants: dict[str, Tensor]
    scores: Tensor
    any_batch: bool = False

    def fits(self, run: Tape) -> bool:
        """Whether another run made the same calls, for as many images as it had."""
        if len(self.calls) != len(run.calls) or self.output != run.output:
            return False
        if not self.any_batch and self.count != run.count:
            return False
        pairs = zip(self.calls, run.calls, strict=True)
        return all(_alike(ours, theirs, run.count) for ours, theirs in pairs) and _same_constants(self, run)

    def for_any_batch(self, doubled: Tape) -> Tape:
        """The tape for batches of any size, if a run of the batch twice made the same calls but for such numbers."""
        general = [_general(one, two, self.count) for one, two in zip(self.calls, doubled.calls, strict=False)]
        tape = replace(self, calls=tuple(call for call in general if call is not None), any_batch=True)
        return tape if tape.fits(self) and tape.fits(doubled) else self


def _alike(ours: Call, theirs: Call, count: int) -> bool:
    return (
        ours.func is theirs.func
        and ours.results == theirs.results
        and ours.spec == theirs.spec
        and all(_is(a, b, count) for a, b in zip(ours.leaves, theirs.leaves, strict=True))
    )


def _is(ours: Any, theirs: Any, count: int) -> bool:
    if isinstance(ours, Size):
        return type(theirs) is int and theirs == ours.per * count + ours.plus
    return type(ours) is type(theirs) and bool(ours == theirs)


def _same_constants(ours: Tape, theirs: Tape) -> bool:
    pairs = [(ours.constants[name], theirs.constants.get(name)) for name in ours.constants]
    return len(ours.constants) == len(theirs.constants) and all(
        b is not None and (a is b or (a.dtype == b.dtype and torch.equal(a, b))) for a, b in pairs
    )


def _general(one: Call, two: Call, count: int) -> Call | None:
    """A call with numbers per image, from a run of `count` images and one of twice as many."""
    if len(one.leaves) != len(two.leaves):
        return None
    return replace(one, leaves=tuple(_grown(a, b, count) for a, b in zip(one.leaves, two.leaves, strict=True)))


def _grown(one: Any, two: Any, count: int) -> Any:
    if type(one) is not int or type(two) is not int or one == two or (two - one) % count:
        return one
    return Size((two - one) // count, 2 * one - two)
