"""What a run comes down to: the calls that it made, in order, with the values that rules will read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.capture.calls import Call
from relprop.core.capture.former import Former, Repeatable, Stated
from relprop.core.capture.inputs import Inputs
from relprop.core.capture.modules import Line
from relprop.core.capture.scripted import Scopes
from relprop.core.graph.graph import Ref, State, ref, state


@dataclass(frozen=True, eq=False)
class Recording:
    """One forward run.

    Attributes:
        calls: in order; each is hashable, so that equal runs are found by comparing them.
        lines: where each call stands in the user's code.
        inputs: as the model was given them.
        output: (N, ...) the scores, and the number of their value.
        values: tensors by the number of their value, or by the name of the weight or constant.
        states: (name, shape, type) of each weight and constant that was used.
        shapes: shape of each value.
        repeatable: for each call, what a run after this one may know of it.
        bases: numbers of the values in whose memory others lie, as a view does.
        repeats: the former run whose calls these are, where they are the very same.
        row_major: whether images were in that memory format.
    """

    calls: tuple[Call, ...]
    lines: tuple[Line, ...]
    inputs: Inputs
    output: tuple[Tensor, int]
    values: dict[int | str, Tensor]
    states: tuple[Stated, ...]
    shapes: Mapping[int, torch.Size]
    repeatable: tuple[Repeatable | None, ...] = ()
    bases: frozenset[int] = frozenset()
    repeats: Former | None = None
    row_major: bool = False

    def former(self) -> Former:
        """What is left of it for a run that comes after, without its values."""
        return Former(self.calls, self.states, self.output[1], self.repeatable, self.bases, self.row_major)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for runs of the same calls, on inputs and weights of the same shapes: their graphs are equal too."""
        return self.calls, self.output[1], self.states, self.inputs.kind


class Draft:
    """A recording while the run goes on.

    Attributes:
        calls, lines, repeatable, values, shapes: as in `Recording`, so far.
        states: by name.
        bases: numbers of the values in whose memory others were found to lie in this run.
        former: the run that this one is compared with.
        row_major: as in `Recording`.
        expected: what is known of the calls of that run; () once this run takes another way.
    """

    def __init__(self, shape: torch.Size, former: Former) -> None:
        self.calls: list[Call] = []
        self.lines: list[Line] = []
        self.repeatable: list[Repeatable | None] = []
        self.values: dict[int | str, Tensor] = {}
        self.states: dict[str, Stated] = {}
        self.shapes: dict[int, torch.Size] = {0: shape}
        self.bases: set[int] = set()
        self.former = former
        self.expected = former.repeatable
        self.row_major = False
        self._constants = 0

    def next(self, shape: torch.Size) -> Ref:
        """A new value of the run, of some shape."""
        new = ref(len(self.shapes))
        self.shapes[new.index] = shape
        return new

    def constant(self, tensor: Tensor, learned: bool) -> State:
        """The name of a new constant; `learned` says whether a weight is in it."""
        name = state(f"constant_{self._constants}", learned=learned, kept=False)
        self._constants += 1
        self.states[name.name] = (name, tensor.shape, tensor.dtype)
        return name

    def write_down(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        results: tuple[int | None, ...],
        *,
        kwargs: tuple[tuple[str, Any], ...] = (),
        single: bool = True,
        sizes: tuple[tuple[int, ...], ...] = (),
        scopes: Scopes = (),
        line: Line = None,
    ) -> None:
        """Add a call, see `Call`."""
        call = Call(func, args, kwargs, results, single, sizes, scopes)
        place = len(self.calls)
        if self.expected and (place == len(self.expected) or call != self.former.calls[place]):
            self.expected = ()
        self.calls.append(call)
        self.lines.append(line)
        self.repeatable.append(None)

    def finish(self, inputs: Inputs, scores: Tensor, number: int) -> Recording:
        """The recording of a run that returned these scores, which are a value of it."""
        calls, states, former = tuple(self.calls), (*self.states.values(),), self.former
        same = self.expected and len(calls) == len(former.calls) and (number, states) == (former.output, former.states)
        return Recording(
            calls, tuple(self.lines), inputs, (scores, number), self.values, states, self.shapes,
            tuple(self.repeatable), former.bases.union(self.bases), former if same else None,
            self.row_major,
        )  # fmt: skip
