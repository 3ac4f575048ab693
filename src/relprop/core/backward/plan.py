"""What is known of a backward pass before the run: made once for each graph and composite, and found again."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from relprop.core.capture.former import Former
from relprop.core.capture.recorder import Keeps
from relprop.core.capture.recording import Recording
from relprop.core.capture.translate import ONE_OF_TWO, RENAMED, Translated, graph_of
from relprop.core.composites.composite import Assignment, Composite
from relprop.core.composites.presets import FAMILIES, family_of
from relprop.core.graph.batch_axis import FIRST, Place, mixing, places
from relprop.core.graph.graph import Graph, Node, Ref, State, bind, refs, states
from relprop.core.graph.joins import SUMS
from relprop.core.graph.links import LINK_OF_END
from relprop.core.graph.signs import nonnegative
from relprop.core.graph.support import Support, supports
from relprop.core.rules.rule import OWN, Absent, Rule, default_of
from relprop.core.rules.shape import pass_through
from relprop.core.rules.splits import symmetric

#: kinds of run that are remembered; of more, the least recently used is planned anew
RUNS = 32


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """All that is known before the run of one step that relevance reaches.

    Attributes:
        node: the step.
        rule: its rule.
        sources: the nodes that the rule shares between.
        shapes: of their values.
        nonnegative: for each of them, whether it can be negative nowhere.
        passes: whether relevance goes through as it is.
        ours: whether the rule is one of relprop's, see `Rule.of_relprop`.
        args, kwargs: the step's arguments, with `Absent` for each value.
        nested: whether a weight lies in a list or a keyword among these.
    """

    node: Node
    rule: Rule
    sources: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    nonnegative: tuple[bool, ...]
    passes: bool
    ours: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    nested: bool

    def given(self, states: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The step's arguments with the weights of a run."""
        if self.nested:
            args, kwargs = bind((self.args, self.kwargs), lambda weight: states[weight.name])  # type: ignore[union-attr]
            return args, kwargs
        return tuple([states[a.name] if type(a) is State else a for a in self.args]), self.kwargs


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is known of a backward pass before the run.

    Attributes:
        graph: the computation.
        assignment: rule of each step.
        supports: positions of each value that depend on the image.
        places: where the batch lies in each value.
        nonnegative: for each node, whether its value can be negative nowhere.
        reads: the values that rules and splits read.
        spent: for each node, the values that are read for the last time there.
    """

    graph: Graph
    assignment: Assignment
    supports: tuple[Support, ...]
    places: tuple[Place, ...]
    nonnegative: tuple[bool, ...]
    reads: frozenset[int]
    spent: Mapping[int, tuple[int, ...]]

    @cached_property
    def stages(self) -> tuple[tuple[Node, Stage | None], ...]:
        """Each step from the output to the image, and what is known of it; None where relevance does not arrive."""
        rules = self.assignment.rules
        return tuple((n, self._stage(n, rules[n.index]) if n.index in rules else None) for n in self.graph.steps[::-1])

    def _stage(self, node: Node, rule: Rule) -> Stage:
        def absent(argument: Ref | State) -> Any:
            return argument if isinstance(argument, State) else Absent(self.graph.nodes[argument.index].shape)

        sources = rule.sources_of(node)
        passes = rule.share is pass_through.share
        sources = sources[:1] if passes else sources
        args, kwargs = bind((node.args, dict(node.kwargs)), absent)
        nested = any(True for part in (*args, *kwargs.values()) if not isinstance(part, State) for _ in states(part))
        nested = nested or any(isinstance(part, State) for part in kwargs.values())
        shapes = tuple(self.graph.nodes[source].shape for source in sources)
        signs = tuple(self.nonnegative[source] for source in sources)
        return Stage(node, rule, sources, shapes, signs, passes, rule.of_relprop, args, kwargs, nested)


@dataclass(eq=False)
class Trace:
    """What a forward run leaves for the backward pass, by node.

    Attributes:
        values: those that were kept.
        states: weights and constants by name.
        shapes: of every tensor.
        output: the scores.
    """

    values: dict[int, Tensor]
    states: Mapping[str, Tensor]
    shapes: Mapping[int, torch.Size]
    output: Tensor


@dataclass(eq=False)
class Kind:
    """All runs of the same calls: one graph, and what follows from it alone.

    Attributes:
        translated: the graph, and the number in a recording of each node's value.
        supports: positions of each value that depend on the image.
        batch: where the batch lies in each value; None where images mix.
        read: constants of the run whose numbers these depend on: places.
    """

    translated: Translated
    supports: tuple[Support, ...]
    batch: tuple[Place | None, ...]
    read: Mapping[str, Tensor]
    _plans: list[tuple[Composite, Mapping[str, Rule], Plan]] = field(default_factory=list)

    @property
    def graph(self) -> Graph:
        """The computation."""
        return self.translated.graph

    @cached_property
    def _by_default(self) -> Composite:
        return family_of(self.graph).composite()

    @cached_property
    def mixing(self) -> tuple[Node, ...]:
        """Steps in whose value the images of a batch do not stay apart."""
        return mixing(self.graph, self.batch)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where the batch lies in each value, where images stay apart."""
        return tuple(place or FIRST for place in self.batch)

    def plan(self, composite: Composite | None) -> Plan:
        """The plan of a composite, by default of the one that suits the network.

        Raises:
            UnsupportedOpError: some steps have no rule; all are named.
        """
        chosen = composite or self._by_default
        known = next((plan for other, own, plan in self._plans if other == chosen and own == OWN), None)
        if known is None:
            assignment = chosen.assign(self.graph)
            reads, spent = _reads(self.graph, assignment), _spent(self.graph, assignment)
            known = Plan(self.graph, assignment, self.supports, self.places, nonnegative(self.graph), reads, spent)
            self._plans.append((chosen, dict(OWN), known))
            del self._plans[:-RUNS]
        return known

    def trace(self, recording: Recording, reads: frozenset[int]) -> Trace:
        """The values of a run that some plans read, by node."""
        numbers, values = self.translated.numbers, recording.values
        kept = {node: values[numbers[node]] for node in reads}
        given = {name: value for name, value in values.items() if isinstance(name, str)}
        output = recording.output[0]
        if self.graph.output != len(numbers) - 1 or numbers[self.graph.output] != recording.output[1]:
            output = values[numbers[self.graph.output]]
        return Trace(kept, given, self.graph.shapes, output)

    def fits(self, recording: Recording) -> bool:
        """Whether the whole numbers that the supports depend on are the same in another run."""
        pairs = ((value, recording.values.get(name)) for name, value in self.read.items())
        return all(other is not None and torch.equal(value, other) for value, other in pairs)


class Kinds:
    """The kinds of run that were met, found by comparing their calls, and the last run on each kind of inputs."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Kind] = OrderedDict()
        self._keeps: list[tuple[tuple[Composite | None, ...], Mapping[str, Rule], Keeps]] = []
        self._last: OrderedDict[Hashable, tuple[Former, Kind]] = OrderedDict()
        self._lock = threading.Lock()

    def former(self, key: Hashable) -> Former | None:
        """The last run of a key."""
        with self._lock:
            return self._last[key][0] if key in self._last else None

    def of(self, recording: Recording, key: Hashable = None) -> Kind:
        """The kind that a recording is of; it becomes the last run of `key`."""
        with self._lock:
            former, kind = self._last.get(key, (None, None))
        if kind is not None and recording.repeats is former is not None and kind.fits(recording):
            return kind
        calls = recording.key
        with self._lock:
            kind = self._known.get(calls)
        if kind is None or not kind.fits(recording):
            kind = _kind(recording)
        with self._lock:
            _remember(self._known, calls, kind)
            _remember(self._last, key, (recording.former(), kind))
        return kind

    def keeps(self, composites: Sequence[Composite | None]) -> Keeps:
        """See `keeps`; the same function for the same composites."""
        wanted = tuple(composites)
        known = next((keep for theirs, own, keep in self._keeps if theirs == wanted and own == OWN), None)
        if known is None:
            known = keeps(wanted)
            self._keeps = [*self._keeps, (wanted, dict(OWN), known)][-RUNS:]
        return known

    def __len__(self) -> int:
        return len(self._known)


def _remember(known: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Put something into a dict of at most `RUNS`, from which the least recently used goes."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > RUNS:
        known.popitem(last=False)


def _kind(recording: Recording) -> Kind:
    translated = graph_of(recording)
    given = {name: value for name, value in recording.values.items() if isinstance(name, str)}
    found, read = supports(translated.graph, given)
    batch, picked = places(translated.graph, given)
    return Kind(translated, found, batch, {name: given[name].clone() for name in read | picked})


def keeps(composites: Sequence[Composite | None]) -> Keeps:
    """Which values of a run to keep for the rules of some composites, by the operation alone.

    The output of a last softmax or sigmoid is left, and its input explained, so that is kept too. None of an operation
    that has no rule.
    """
    by_default = [family.composite() for family in FAMILIES]
    chosen = [c for composite in composites for c in ([composite] if composite else by_default)]
    by_op: dict[str, tuple[bool, bool] | None] = {}
    joins = any(composite.split is not symmetric for composite in chosen)

    def keep(op: str, inputs: int) -> tuple[bool, bool] | None:
        if op not in by_op:
            names = (op, f"{op}[0]", f"{op}[1]", ONE_OF_TWO.get(op, op))
            rules = [rule for composite in chosen for name in names for rule in _rules_of(composite, name)]
            inputs_read = any("inputs" in r.reads for r in rules) or op in LINK_OF_END
            reads = inputs_read, any("output" in r.reads for r in rules)
            ruled = any(default_of(name) or name in composite.rules for composite in chosen for name in names)
            by_op[op] = reads if ruled or op in RENAMED else None
        known = by_op[op]
        return (True, known[1]) if known and joins and inputs > 1 and op in SUMS else known

    return keep


def _rules_of(composite: Composite, op: str) -> list[Rule]:
    """The rules that a composite may give to an operation."""
    found = [composite.rules.get(op) or default_of(op), *(rule for _, rule in composite.names)]
    found += [composite.first, composite.classifier] if op in ("conv", "conv_transpose", "linear") else []
    return [rule for rule in found if rule is not None]


def _spent(graph: Graph, assignment: Assignment) -> dict[int, tuple[int, ...]]:
    """For each step, the values that no step reads from there to the image."""
    last: dict[int, int] = {}
    for node in reversed(graph.steps):
        rule = assignment.rules.get(node.index)
        for value in (node.index, *refs((node.args, node.kwargs)), *(rule.sources_of(node) if rule else ())):
            last[value] = node.index
    read_last: dict[int, list[int]] = {node.index: [] for node in graph.steps}
    for value, reader in last.items():
        read_last[reader].append(value)
    order = [node.index for node in reversed(graph.steps)]
    return dict.fromkeys(order[:1], ()) | {now: tuple(read_last[before]) for before, now in itertools.pairwise(order)}


def _reads(graph: Graph, assignment: Assignment) -> frozenset[int]:
    """Which forward values the rules read."""
    keep: set[int] = set()
    for index, rule in assignment.rules.items():
        if "inputs" in rule.reads:
            keep.update(rule.sources_of(graph.nodes[index]))
        if "output" in rule.reads:
            keep.add(index)
    return frozenset(keep)
