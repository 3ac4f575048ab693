"""The backward pass as one graph, for `torch.compile`.

The graph is made by running `propagate` itself on fake tensors, which have a shape and no data. It serves all runs of
one kind, and takes weights as inputs: they may change. The forward run is the model's own, recorded as ever, so that a
compiled explanation is of the model as it is too.

Packed weights mean nothing to a compiler. The graph names them by their key, and looks them up when it runs.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from relprop.core.backward.ledger import COLUMNS, Entry, Ledger
from relprop.core.backward.plan import Plan, Trace
from relprop.core.backward.propagate import BackwardPass, propagate
from relprop.core.graph.convolution import ConvGeometry
from relprop.core.weights.packed import Packed
from relprop.core.weights.prepared import Derived, Key, Made, Prepared, Store, Weight

#: what `torch.compile` hands the graph to
BACKEND = "inductor"


@dataclass(frozen=True)
class Task:
    """What is asked for: one graph each.

    Attributes:
        keep: nodes whose relevance is returned.
        ledger: whether to keep a ledger.
    """

    keep: frozenset[int]
    ledger: bool


class Compiler:
    """Explains by compiled graphs, made when first needed. Where that fails it warns once, and never tries again."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Plan, dict[Task, Compiled]] = WeakKeyDictionary()
        self._ran: WeakSet[Plan] = WeakSet()  # by passes that were eager, and prepared the weights
        self._failed = False

    def propagate(
        self,
        plan: Plan,
        trace: Trace,
        prepared: Prepared,
        start: Tensor,
        *,
        keep: frozenset[int],
        ledger: bool,
        last: bool,
    ) -> BackwardPass:
        """As `propagate.propagate`; the first pass of its kind, and what cannot be compiled, eagerly."""
        passed = self._compiled(plan, trace, prepared, start, Task(keep, ledger)) if plan in self._ran else None
        if passed is None:
            passed = propagate(plan, trace, prepared, start, keep=keep, ledger=ledger, last=last)
            self._ran.add(plan)
        return passed

    def _compiled(self, plan: Plan, trace: Trace, prepared: Prepared, start: Tensor, task: Task) -> BackwardPass | None:
        if self._failed or not bool((start >= 0).all()):
            return None
        made = self._made.setdefault(plan, {})
        try:
            if task not in made:
                made[task] = Compiled.of(plan, trace, prepared, start, task)
            found = made[task]
            if not all(map(prepared.is_current, found.keys)):
                return None  # weights have changed: an eager pass prepares them anew
            return found(trace, prepared, start)
        except Exception as error:  # compilers raise errors of many unrelated types
            self._failed = True
            self._made.clear()
            reason = " ".join(str(error).split())[:300]
            warnings.warn(
                f"torch.compile cannot compile this explanation, so it runs eagerly: the same numbers, more slowly "
                f"({type(error).__name__}: {reason}). On CPUs torch.compile needs a C++ compiler such as g++; rules "
                "must not branch on values. Leave compile=True out to be rid of this warning.",
                RuntimeWarning,
                stacklevel=4,
            )
            return None


@dataclass(frozen=True, eq=False)
class Compiled:
    """One compiled graph.

    Attributes:
        task: what it computes.
        function: the compiled graph.
        used: positions of the inputs that it takes, among the start, the values, the states and what is prepared.
        names: numbers of the values, and names of the states.
        keys: of everything that it takes from what is prepared, packed weights included.
        lines: the ledger's lines, to be filled with numbers.
    """

    task: Task
    function: Callable[..., Any]
    used: tuple[int, ...]
    names: tuple[list[int], list[str]]
    keys: tuple[Key, ...]
    tensors: tuple[Key, ...]
    lines: tuple[Entry, ...]

    @classmethod
    def of(cls, plan: Plan, trace: Trace, prepared: Prepared, start: Tensor, task: Task) -> Compiled:
        """Trace and compile; the first call compiles in earnest."""
        numbers, states, keys = [*trace.values], [*trace.states], [*prepared.tensors()]
        lines: list[Entry] = []
        fake = _FakePrepared.of(prepared)

        def explain(start: Tensor, output: Tensor, *given: Tensor) -> list[Tensor]:
            values = dict(zip(numbers, given, strict=False))
            weights = dict(zip(states, given[len(numbers) :], strict=False))
            fake.fakes = dict(zip(keys, given[len(numbers) + len(states) :], strict=True))
            run = Trace(values, weights, trace.shapes, output)
            passed = propagate(plan, run, fake, start, keep=task.keep, ledger=task.ledger)
            return _row(passed, task, lines)

        real = [start, trace.output, *trace.values.values(), *trace.states.values(), *prepared.tensors().values()]
        graph, used = _traced(explain, real)
        on_gpu = start.device.type == "cuda"
        mode = "reduce-overhead" if on_gpu and BACKEND == "inductor" else None  # CUDA graphs
        function = torch.compile(graph, fullgraph=True, backend=BACKEND, mode=mode)
        first = 2 + len(numbers) + len(states)
        taken = tuple(key for place, key in enumerate(keys, first) if place in used)
        return cls(task, function, used, (numbers, states), (*taken, *fake.packed_keys), tuple(keys), tuple(lines))

    def __call__(self, trace: Trace, prepared: Prepared, start: Tensor) -> BackwardPass:
        """Pass relevance back."""
        made = prepared.tensors()
        given = [start, trace.output, *map(trace.values.__getitem__, self.names[0])]
        given += map(trace.states.__getitem__, self.names[1])
        given += [made.get(key) for key in self.tensors]  # type: ignore[misc]
        on_gpu = start.device.type == "cuda"
        if on_gpu:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        outputs = self.function(*map(given.__getitem__, self.used))
        image, *rest = (value.clone() for value in outputs) if on_gpu else outputs  # the next run reuses them
        kept = dict(zip(sorted(self.task.keep), rest, strict=False))
        if not self.task.ledger:
            return BackwardPass(image, kept, None)
        *columns, ends = rest[len(kept) :]
        ledger = Ledger.of_columns(self.lines, dict(zip(COLUMNS, columns, strict=True)), ends[0], ends[1])
        return BackwardPass(image, kept, ledger)


def _row(passed: BackwardPass, task: Task, lines: list[Entry]) -> list[Tensor]:
    """Everything that comes of a pass in a row; the ledger's lines go to `lines`."""
    results = [passed.image.contiguous(), *(passed.kept[i] for i in sorted(task.keep))]
    if passed.ledger is not None:
        lines[:] = passed.ledger.entries
        results += passed.ledger.columns().values()
        results.append(torch.stack([passed.ledger.start, passed.ledger.end]))
    return results


def _traced(function: Callable[..., Any], inputs: list[Tensor]) -> tuple[fx.GraphModule, tuple[int, ...]]:
    """The graph of a function of these inputs, and which of them it takes."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = [mode.from_tensor(value) for value in inputs]
    with mode:
        graph = make_fx(function, _allow_non_fake_inputs=True)(*fakes)
    graph.graph.eliminate_dead_code()
    used = []
    for position, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if node.users:
            used.append(position)
        else:
            graph.graph.erase_node(node)
    graph.recompile()
    return graph, tuple(used)


class _FakePrepared(Prepared):
    """Prepared weights while a graph is traced: fake tensors for those that exist."""

    original: Prepared
    fakes: Mapping[Key, Tensor]
    packed_keys: list[Key]

    @classmethod
    def of(cls, prepared: Prepared) -> _FakePrepared:
        """Take the place of `prepared`."""
        new = cls(prepared.channels_last, prepared.bf16, size=prepared.size, store=Store())
        new.original, new.fakes, new.packed_keys = prepared, {}, []
        return new

    def get(
        self, owner: str, name: str, sources: tuple[Tensor, ...], make: Callable[[], Made], *, sized: bool = False
    ) -> Made:
        """As `Prepared.get`."""
        key = self.key(owner, name, sized=sized)
        packed = self.original.packed(key)
        if packed is not None:
            self.packed_keys.append(key)
            named: Any = _Named(_number(self.original.store), key, packed.geometry)
            return cast("Made", named)
        known = self.fakes.get(key)
        return make() if known is None else cast("Made", known)

    def derived(self, weight: Weight) -> Derived:
        """As `Prepared.derived`."""
        if isinstance(weight, Derived):
            return weight
        key = next((key for key, made in self.fakes.items() if made is weight), None)
        return Derived("weight" if key is None else key[1], (weight,), lambda: weight, weight)


@dataclass(frozen=True)
class _Named:
    """A packed weight that a graph looks up when it runs: `cache` holds it under `key`."""

    cache: int
    key: Key
    geometry: ConvGeometry

    def forward(self, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `Packed.forward`."""
        size = (value.shape[0], self.geometry.weight_shape[0], *self.geometry.size(value.shape[2:]))
        computed: Tensor = torch.ops.relprop.packed(value, bias, self.cache, *self.key, size)
        return computed

    def transpose(self, value: Tensor, outward: tuple[int, ...]) -> Tensor:
        """As `Packed.transpose`."""
        size = (value.shape[0], self.geometry.weight_shape[1] * self.geometry.groups, *outward)
        sent_back: Tensor = torch.ops.relprop.packed(value, None, self.cache, *self.key, size)
        return sent_back


_CACHES: WeakValueDictionary[int, Store] = WeakValueDictionary()


def _number(store: Store) -> int:
    """A number under which graphs find a store, for as long as it lives."""
    known = next((number for number, other in _CACHES.items() if other is store), None)
    if known is None:
        known = next(_NUMBERS)
        _CACHES[known] = store
    return known


_NUMBERS = itertools.count()
_LIBRARY: Any = torch.library.Library("relprop", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("packed(Tensor value, Tensor? bias, int cache, str owner, str name, SymInt[] size) -> Tensor")


def _packed(value: Tensor, bias: Tensor | None, cache: int, owner: str, name: str, size: list[int]) -> Tensor:
    packed: Packed = _CACHES[cache].entries[owner, name].made
    result = packed.transpose(value, tuple(size[2:])) if packed.transposed else packed.forward(value, bias)
    return result.contiguous(memory_format=torch.channels_last)


def _packed_size(value: Tensor, bias: Tensor | None, cache: int, owner: str, name: str, size: list[int]) -> Tensor:
    return value.new_empty(size).contiguous(memory_format=torch.channels_last)


_LIBRARY.impl("packed", _packed, "CPU")
torch.library.register_fake("relprop::packed", _packed_size, lib=_LIBRARY)
