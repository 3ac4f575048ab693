"""What a run may know of a former one: where a call comes again as it was, little of it has to be found out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from relprop.core.capture.calls import Call
from relprop.core.graph.convolution import ConvGeometry
from relprop.core.graph.graph import Ref, State
from relprop.core.graph.views import View

#: a weight or constant, with its shape and type
Stated = tuple[State, torch.Size, torch.dtype]


@dataclass(frozen=True, eq=False, slots=True)
class Repeatable:
    """A call whose like may come again, at the same place of another run.

    It takes tensors first, or one list of them, each a value of the run or a weight, and returns one tensor.

    Attributes:
        func: the operation, as it is called.
        call: what is written down.
        number: of its result.
        listed: whether its tensors are in a list.
        leaves: what its tensors stand for, with shape and type of a weight.
        count: how many arguments it has by position.
        rest: those behind the tensors.
        kwargs: those by name; none is a tensor.
        kept: which of its tensors are kept, and under which key.
        states: the weights among them.
        made: whether its result is kept.
        writes: whether it writes to its first argument, and returns that.
        overwritten: keys of the kept values that this changes.
        views: how its result comes from the base of the memory that it lies in; () where it has memory of its own.
        convolution: name of the weight, and geometry, of one whose weight may be laid out once.
    """

    func: Any
    call: Call
    number: int
    listed: bool
    leaves: tuple[tuple[Ref | State, torch.Size | None, torch.dtype | None], ...]
    count: int
    rest: tuple[Any, ...]
    kwargs: dict[str, Any]
    kept: tuple[tuple[int, int | str], ...]
    states: tuple[Stated, ...]
    made: bool
    writes: bool
    overwritten: tuple[int | str, ...]
    views: tuple[View, ...]
    convolution: tuple[str, ConvGeometry] | None

    def agrees(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call has as many tensors, and the same other arguments; a tensor is never equal to a number."""
        if len(args) != self.count or (self.listed and (type(args[0]) is not list or len(args[0]) != len(self.leaves))):
            return False
        if self.rest:
            for ours, theirs in zip(self.rest, args[self.count - len(self.rest) :], strict=True):
                if type(ours) is not type(theirs) or ours != theirs:
                    return False
        if not kwargs and not self.kwargs:
            return True
        return kwargs.keys() == self.kwargs.keys() and all(
            type(value) is type(kwargs[name]) and value == kwargs[name] for name, value in self.kwargs.items()
        )


@dataclass(frozen=True, eq=False)
class Former:
    """What is left of a former run, without its values.

    Attributes:
        calls, states: of the run.
        output: the number of its scores.
        repeatable: what is known of its calls.
        bases: numbers of the values in whose memory others lie.
        row_major: whether its images had to be in that memory format.
    """

    calls: tuple[Call, ...] = ()
    states: tuple[Stated, ...] = ()
    output: int = 0
    repeatable: tuple[Repeatable | None, ...] = ()
    bases: frozenset[int] = frozenset()
    row_major: bool = False
