"""Run the calls of a network that were made before, as they were, without finding out again what is known of them."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from torch import Tensor

from relprop.core.capture.calls import Call
from relprop.core.capture.former import Repeatable
from relprop.core.capture.memory import MAY_COPY, Tensors, Value
from relprop.core.capture.model import Names
from relprop.core.capture.modules import Modules
from relprop.core.capture.recording import Draft
from relprop.core.graph.convolution import ConvGeometry
from relprop.core.graph.graph import Ref, State, ref
from relprop.core.weights.prepared import Prepared


class Repeats:
    """Computes the calls of a run that equal those at their places in the former run.

    What each of their results stands for is noted later, and only where a call comes that is not as before
    (`catch_up`).
    """

    def __init__(self, draft: Draft, tensors: Tensors, names: Names, prepared: Prepared) -> None:
        self._draft, self._tensors, self._names, self._prepared = draft, tensors, names, prepared
        self._bases = draft.former.bases
        self._unnoted: list[tuple[Repeatable, weakref.ref[Tensor]]] = []
        self._kept_since: list[int | str] = []
        self._held: list[Tensor] = []

    def again(self, known: Repeatable, args: Any, kwargs: Any, modules: Modules) -> Tensor | None:
        """Compute a call that equals the one at its place in the former run in all that is written down; else None."""
        if not known.agrees(args, kwargs):
            return None
        made, names = self._tensors.made, self._names
        for (leaf, shape, dtype), tensor in zip(known.leaves, args[0] if known.listed else args, strict=False):
            if shape is None:
                met = made.get(leaf.index)  # type: ignore[union-attr]
                if met is None or met() is not tensor:
                    return None
            elif names.of_tensor(tensor) is not leaf or tensor.shape != shape or tensor.dtype is not dtype:
                return None
        line = modules.look(sys._getframe(2))
        if modules.scopes != known.call.scopes:
            return None
        try:
            result = self._computed(known, args, kwargs)
        except RuntimeError:
            if not known.views:
                raise
            return None  # it has no such view in this memory format
        if result is args[0] and not known.writes:
            return None  # it was another tensor, as of `contiguous`
        draft, number = self._draft, known.number
        draft.shapes[number] = result.shape
        met = made[number] = weakref.ref(result)
        if known.made:
            draft.values[number] = result
            self._kept_since.append(number)
        if number in self._bases:
            self._held.append(result)
        draft.calls.append(known.call)
        draft.lines.append(line)
        draft.repeatable.append(known)
        self._unnoted.append((known, met))
        return result

    def _computed(self, known: Repeatable, args: Any, kwargs: Any) -> Tensor:
        """The result of a call that is as it was; what rules read of its arguments, and what it overwrites, is kept."""
        values, tensors = self._draft.values, args[0] if known.listed else args
        for stated in known.states:
            self._draft.states.setdefault(stated[0].name, stated)
        for place, key in known.kept:
            if key not in values:
                values[key] = tensors[place]
                self._kept_since.append(key)
        for key in known.overwritten:
            values[key] = values[key].clone()
        if known.convolution is None:
            result: Tensor = known.func(*args, **kwargs) if kwargs else known.func(*args)
            return result
        name, geometry = known.convolution
        bias = args[2] if len(args) > 2 else None
        return self._prepared.forward(name, geometry, args[0], args[1], bias, exact=True)

    def catch_up(self) -> None:
        """Note what the results of repeated calls stand for, those that something still holds."""
        if not self._unnoted:
            return
        for known, met in self._unnoted:
            tensor, new = met(), ref(known.number)
            if tensor is None:
                continue
            value = self._tensors.find(tensor)
            if value is None:
                memory = self._tensors.memory_of(tensor)
                self._tensors.add(tensor, new, memory=memory, views=() if memory is None else known.views)
                if known.func in MAY_COPY:
                    source = self._tensors.made[known.call.args[0].index]()
                    self._tensors.relay(tensor if source is None else source, tensor)
                continue
            value.leaf = new
            if known.writes:
                assert value.memory is not None
                value.memory.change(value)
        for key in self._kept_since:
            memory = self._tensors.memory_of(self._draft.values[key])
            if memory is not None:
                memory.kept.append(key)
        self._unnoted.clear()
        self._kept_since.clear()

    def number_of(self, tensor: Tensor) -> int | None:
        """The number of the value that a tensor is; None where it does not depend on the image."""
        if self._unnoted and self._unnoted[-1][1]() is tensor:
            return self._unnoted[-1][0].number
        self.catch_up()
        leaf = self._tensors.known(tensor).leaf
        return leaf.index if isinstance(leaf, Ref) else None


def repeatable(
    call: Call,
    func: Any,
    args: Any,
    kwargs: Any,
    result: Tensor,
    value: Value | None,
    *,
    tensors: int,
    keeps: tuple[bool, bool],
    overwritten: tuple[int | str, ...],
    geometry: ConvGeometry | None,
) -> Repeatable | None:
    """What another run may know of a call; None where it holds for this run alone.

    Args:
        call: as it was written down.
        func, args, kwargs: as it was made.
        result: what it returned.
        value: what is known of that.
        tensors: how many there are among the arguments, nested ones included.
        keeps: whether its inputs and its output are kept.
        overwritten: keys of the kept values that it changed.
        geometry: of a convolution whose weight is laid out once.
    """
    (read, made), listed = keeps, type(args[0]) is list
    first = next((k for k, argument in enumerate(args) if not isinstance(argument, Tensor)), len(args))
    given = args[0] if listed else args[:first]
    rest, named = args[1 if listed else first :], call.args[0] if listed else call.args[:first]
    leaves: list[Any] = [
        (leaf, None, None) if isinstance(leaf, Ref) else (leaf, tensor.shape, tensor.dtype)
        for leaf, tensor in zip(named, given, strict=True)
    ]
    states = [stated for stated in leaves if isinstance(stated[0], State)]
    kept = [
        (place, leaf.index if isinstance(leaf, Ref) else leaf.name)
        for place, (leaf, *_) in enumerate(leaves)
        if read or not isinstance(leaf, Ref)
    ]
    writes = func is not call.func
    same = any(result is tensor for tensor in given)
    if len(leaves) != tensors or value is None or value.views is None or same is not writes:
        return None
    if writes and not (result is args[0] and value.memory is not None and value.memory.base is value):
        return None
    if not all(leaf.kept and not writes for leaf, *_ in states) or call.results[0] is None:
        return None
    convolution = None if geometry is None else (call.args[1].name, geometry)
    views = () if writes else value.views
    return Repeatable(
        func, call, call.results[0], listed, tuple(leaves), len(args), rest, kwargs, tuple(kept), tuple(states), made,
        writes, overwritten, views, convolution,
    )  # fmt: skip
