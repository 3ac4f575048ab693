"""Forward run and walk back as one graph, for `torch.compile`.

The graph is made by running the engine itself on stand-ins that have a shape and no data. It serves any number of
images but one, which gets a graph of its own, and takes weights as inputs: they may change.

Packed weights mean nothing to a compiler. The graph names them, by step and by what they are, and looks them up when
it runs.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from relprop.core.geometry import ConvGeometry
from relprop.core.ledger import Entry, Ledger
from relprop.core.prepared import Key, Made, Prepared
from relprop.core.program import run
from relprop.core.propagate import Walk, Way, propagate
from relprop.core.target import start_relevance

#: what `torch.compile` hands the graph to
BACKEND = "inductor"

_COLUMNS = ("received", "sent", "magnitude", "blind")


@dataclass(frozen=True)
class Task:
    """What is explained: one graph each.

    Attributes:
        start: "probability" or "logit".
        keep: nodes whose relevance is returned.
        book: whether to keep a ledger.
    """

    start: str
    keep: frozenset[int]
    book: bool


@dataclass(frozen=True, eq=False)
class Explained:
    """Outcome of a run: the scores, the classes (N, K), where each began (N,), and its walk."""

    logits: Tensor
    classes: Tensor
    scores: list[Tensor]
    walks: list[Walk]


class Compiler:
    """Explains by compiled graphs, made when first needed. Where that fails it warns once, and never tries again."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], Compiled] = {}
        self._prepared: WeakKeyDictionary[Way, int] = WeakKeyDictionary()
        self._failed = False

    def ran(self, way: Way) -> None:
        """Take note of an eager run, which prepares the weights."""
        self._prepared[way] = way.prepared.generation

    def explain(
        self,
        way: Way,
        state: Mapping[str, Tensor],
        image: Tensor,
        classes: Tensor | None,
        start: str,
        keep: frozenset[int],
        book: bool,
    ) -> Explained | None:
        """Explain `classes` (N, K) of a batch, or the predicted ones; None where the caller has to do it eagerly."""
        task = Task(start, keep, book)
        if self._failed or self._prepared.get(way) != way.prepared.generation:
            return None  # the first run, and the first after a change of weights, is eager and prepares them
        count = len(image)
        known = (id(way), classes is not None and classes.shape[1], task)
        found = self._made.get((*known, count)) or self._made.get((*known, "several" if count > 1 else 1))
        try:
            if found is None:
                found = Compiled.of(way, state, image, classes, task)
                self._made[*known, "several" if found.any_batch else count] = found
            return found(state, image, classes)
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
        way: what it explains; held, so that nothing else gets its identity.
        task: how.
        function: the compiled graph.
        used: positions of the inputs that it takes, among image, classes and all weights.
        weights: names of those weights: of the state, and of what is prepared.
        lines: the book's lines, to be filled with numbers.
        any_batch: whether it serves any number of images but one.
    """

    way: Way
    task: Task
    function: Callable[..., Any]
    used: tuple[int, ...]
    weights: tuple[list[str], list[Key]]
    lines: tuple[Entry, ...]
    any_batch: bool

    @classmethod
    def of(cls, way: Way, state: Mapping[str, Tensor], image: Tensor, classes: Tensor | None, task: Task) -> Compiled:
        """Trace and compile; the first call compiles in earnest."""
        names = ([*state], [*way.prepared.tensors()])
        lines: list[Entry] = []

        def explain(image: Tensor, classes: Tensor | None, *weights: Tensor) -> list[Tensor]:
            given = dict(zip(names[0], weights, strict=False))
            made = dict(zip(names[1], weights[len(given) :], strict=True))
            stood_in = replace(way, prepared=_StandIn.of(way.prepared, made))
            return _explain(stood_in, given, image, classes, task, lines)

        real = [image, classes, *state.values(), *map(way.prepared.tensors().__getitem__, names[1])]
        graph, used, any_batch = _traced(explain, real, several=way.graph.any_batch and len(image) > 1)
        on_gpu = image.device.type == "cuda"
        mode = "reduce-overhead" if on_gpu and BACKEND == "inductor" else None  # CUDA graphs
        function = torch.compile(graph, fullgraph=True, backend=BACKEND, mode=mode)
        return cls(way, task, function, used, names, tuple(lines), any_batch)

    def __call__(self, state: Mapping[str, Tensor], image: Tensor, classes: Tensor | None) -> Explained:
        """Explain a batch."""
        given = [image, classes, *map(state.__getitem__, self.weights[0])]
        given += map(self.way.prepared.tensors().__getitem__, self.weights[1])
        inputs = [value for value in map(given.__getitem__, self.used) if value is not None]
        if self.any_batch:
            for value in inputs[: 1 if classes is None else 2]:
                torch._dynamo.maybe_mark_dynamic(value, 0)
        on_gpu = image.device.type == "cuda"
        if on_gpu:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        outputs = self.function(*inputs)
        logits, chosen, *rest = (value.clone() for value in outputs) if on_gpu else outputs  # the next run reuses them
        size = 2 + len(self.task.keep) + (len(_COLUMNS) + 1) * self.task.book
        parts = [rest[at : at + size] for at in range(0, len(rest), size)]
        return Explained(logits, chosen, [score for score, *_ in parts], [self._walk(part[1:]) for part in parts])

    def _walk(self, parts: list[Tensor]) -> Walk:
        image, *rest = parts
        kept = dict(zip(sorted(self.task.keep), rest, strict=False))
        if not self.task.book:
            return Walk(image, kept, None)
        *columns, ends = rest[len(kept) :]
        values = zip(self.lines, *columns, strict=True)
        entries = (replace(line, **dict(zip(_COLUMNS, row, strict=True))) for line, *row in values)
        return Walk(image, kept, Ledger(tuple(entries), ends[0], ends[1]))


def _explain(
    way: Way, state: Mapping[str, Tensor], image: Tensor, classes: Tensor | None, task: Task, lines: list[Entry]
) -> list[Tensor]:
    """Run and walk, with everything that comes of it in a row; the book's lines go to `lines`."""
    trace = run(way.program, way.graph, state, image, way.prepared)
    logits = trace.output
    chosen = logits.argmax(1, keepdim=True) if classes is None else classes
    results = [logits.clone(), chosen]
    for column in chosen.unbind(1):
        start, score = start_relevance(logits, column, task.start)
        walk = propagate(way, trace, state, start, keep=task.keep, book=task.book)
        results += [score, walk.image.contiguous(), *(walk.kept[i] for i in sorted(task.keep))]
        if walk.ledger is not None:
            lines[:] = walk.ledger.entries
            results += [torch.stack([e.sent * 0 + getattr(e, name) for e in lines]) for name in _COLUMNS]
            results.append(torch.stack([walk.ledger.start, walk.ledger.end]))
    return results


def _traced(
    function: Callable[..., Any], inputs: list[Tensor | None], *, several: bool
) -> tuple[fx.GraphModule, tuple[int, ...], bool]:
    """The graph of a function, which of its inputs it takes, and whether it serves any size of the first dimension.

    Args:
        function: of these inputs.
        inputs: image, classes or None, weights.
        several: whether to let the first dimension of image and classes be any.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def stand_in(position: int, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        sizes = [DimDynamic.STATIC] * value.dim()
        if several and position < 2:
            sizes[0] = DimDynamic.DUCK  # the same unknown in both
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        return mode.from_tensor(value, symbolic_context=context)

    stand_ins = [*itertools.starmap(stand_in, enumerate(inputs))]
    with mode:
        graph = make_fx(function, _allow_non_fake_inputs=True)(*stand_ins)
    graph.graph.eliminate_dead_code()
    used = []
    for position, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if node.users:
            used.append(position)
        else:
            graph.graph.erase_node(node)
    graph.recompile()
    assert stand_ins[0] is not None
    size: Any = stand_ins[0].shape[0]
    return graph, tuple(used), several and not isinstance(size, int) and size.node.maybe_as_int() is None


class _StandIn(Prepared):
    """Prepared weights while a graph is traced: stand-ins for those that exist."""

    original: Prepared

    @classmethod
    def of(cls, prepared: Prepared, made: Mapping[Key, Tensor]) -> _StandIn:
        """Take the place of `prepared`, with `made` for the tensors in it."""
        new = cls(prepared.channels_last, prepared.bf16)
        new.original = prepared
        for (node, name), value in made.items():
            new._kept[node][name] = ((), (), value)
        return new

    def get(self, node: int, name: str, sources: tuple[Tensor, ...], make: Callable[[], Made]) -> Made:
        """As `Prepared.get`."""
        packed: Any = self.original.packed(node, name)
        if packed is not None:
            named: Any = _Named(_number(self.original), node, name, packed.geometry, packed.outward)
            return cast("Made", named)
        known = self._kept[node].get(name)
        return make() if known is None else cast("Made", known[2])


@dataclass(frozen=True)
class _Named:
    """A packed weight that a graph looks up when it runs: `cache` holds it for `node` under `name`."""

    cache: int
    node: int
    name: str
    geometry: ConvGeometry
    outward: tuple[int, ...] | None

    def push(self, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `Packed.push`."""
        size = (value.shape[0], self.geometry.weight_shape[0], *self.geometry.size(value.shape[2:]))
        pushed: Tensor = torch.ops.relprop.packed(value, bias, self.cache, self.node, self.name, size)
        return pushed

    def pull(self, value: Tensor) -> Tensor:
        """As `Packed.pull`."""
        assert self.outward is not None
        size = (value.shape[0], self.geometry.weight_shape[1] * self.geometry.groups, *self.outward)
        pulled: Tensor = torch.ops.relprop.packed(value, None, self.cache, self.node, self.name, size)
        return pulled


_CACHES: WeakValueDictionary[int, Prepared] = WeakValueDictionary()


def _number(prepared: Prepared) -> int:
    """A number under which graphs find a cache, for as long as it lives."""
    known = next((number for number, cache in _CACHES.items() if cache is prepared), None)
    if known is None:
        known = next(_NUMBERS)
        _CACHES[known] = prepared
    return known


_NUMBERS = itertools.count()
_LIBRARY: Any = torch.library.Library("relprop", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("packed(Tensor value, Tensor? bias, int cache, int node, str name, SymInt[] size) -> Tensor")


def _packed(value: Tensor, bias: Tensor | None, cache: int, node: int, name: str, size: list[int]) -> Tensor:
    packed = _CACHES[cache].packed(node, name)
    assert packed is not None, f"{name} of step {node} was not prepared"
    result = packed.push(value, bias) if packed.outward is None else packed.pull(value)
    return result.contiguous(memory_format=torch.channels_last)


def _packed_size(value: Tensor, bias: Tensor | None, cache: int, node: int, name: str, size: list[int]) -> Tensor:
    return value.new_empty(size).contiguous(memory_format=torch.channels_last)


_LIBRARY.impl("packed", _packed, "CPU")
torch.library.register_fake("relprop::packed", _packed_size, lib=_LIBRARY)
