"""A composite says which rule each step of a network takes, and how its joins split.

Choices, strongest first: by name pattern, by position (first layer, classifier), by operation, and at last the
operation's default.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from relprop.core.graph.graph import Graph, Node, State
from relprop.core.graph.joins import Join, find_joins
from relprop.core.graph.ops import AFFINE
from relprop.core.rules import DEFAULTS, OWN, Rule, default_of
from relprop.core.rules.affine import weight_place
from relprop.core.rules.splits import Split, join_rule, ratio
from relprop.core.weights.folding import find_folds
from relprop.errors import UnsupportedOpError, UsageError

BatchNorm = Literal["pass", "fold"]


@dataclass(frozen=True)
class Composite:
    """An immutable choice of rules.

    Attributes:
        name: as tables and manifests print it.
        rules: rule by operation ("conv", "max_pool", ...), where it is not the default.
        names: (pattern, rule) pairs; a pattern is matched with node names and module paths, as file names are
            ("layer4.*"); the last that matches wins.
        first: rule of the first weighted layers, those that no other weighted layer precedes.
        classifier: rule of the last weighted layers, those that no other follows.
        split: how joins share.
        identity: whether identity skips get their share (Table 2); if not, it goes to the main branch.
        batch_norm: "pass" relevance through (the paper), or "fold" it into the layer before it where there is one.
    """

    name: str = "custom"
    rules: Mapping[str, Rule] = field(default_factory=dict)
    names: tuple[tuple[str, Rule], ...] = ()
    first: Rule | None = None
    classifier: Rule | None = None
    split: Split = ratio
    identity: bool = True
    batch_norm: BatchNorm = "pass"

    def __post_init__(self) -> None:
        if self.batch_norm not in ("pass", "fold"):
            raise UsageError(f"batch_norm must be 'pass' or 'fold', not {self.batch_norm!r}")

    def override(
        self,
        *,
        rules: Mapping[str, Rule] | None = None,
        names: Mapping[str, Rule] | None = None,
        first: Rule | None = None,
        classifier: Rule | None = None,
        split: Split | None = None,
        name: str | None = None,
    ) -> Composite:
        """A copy with some choices changed; `rules` and `names` are added to those there are."""
        return replace(
            self,
            name=name or (self.name if self.name.endswith("*") else f"{self.name}*"),
            rules={**self.rules, **(rules or {})},
            names=(*self.names, *(names or {}).items()),
            first=first or self.first,
            classifier=classifier or self.classifier,
            split=split or self.split,
        )

    def assign(self, graph: Graph) -> Assignment:
        """Choose the rule of every step of a graph.

        Raises:
            UnsupportedOpError: some have none; all of them are named.
        """
        assignment = self.survey(graph)
        if assignment.missing:
            raise UnsupportedOpError(_missing_message(assignment.missing))
        return assignment

    def survey(self, graph: Graph) -> Assignment:
        """As `assign`, but a step without a rule is only listed.

        Only steps that relevance can reach need a rule: what merely weighs other values (a gate, an attention map) gets
        none, unless the rule of the product says so.
        """
        joins = find_joins(graph)
        firsts, lasts = _positions(graph)
        chosen: dict[int, Rule] = {}
        missing: list[Node] = []
        reached = {graph.output}
        for node in reversed(graph.steps):
            if node.index not in reached:
                continue
            if node.index in joins:
                rule: Rule | None = join_rule(joins[node.index], self.split, identity=self.identity)
            elif (rule := self._choice(node, node.index in firsts, node.index in lasts)) is not None:
                rule = rule.at(graph, node)
            if rule is None:
                missing.append(node)
                reached.update(node.inputs)
            else:
                chosen[node.index] = rule
                reached.update(rule.receivers(node))
        unused = [pattern for pattern, _ in self.names if not any(_matches(node, pattern) for node in graph.steps)]
        if unused:
            raise UsageError(f"no layer matches the pattern {unused[0]!r}; {graph.nearest(unused[0])}")
        folds = find_folds(graph) if self.batch_norm == "fold" else {}
        taking = {index: join for index, join in joins.items() if index in reached}
        return Assignment(self, graph, chosen, taking, tuple(reversed(missing)), folds)

    def _choice(self, node: Node, first: bool, last: bool) -> Rule | None:
        for pattern, rule in reversed(self.names):
            if _matches(node, pattern):
                return rule
        if first and self.first is not None:
            return self.first
        if last and self.classifier is not None:
            return self.classifier
        return self.rules.get(node.op) or default_of(node.op)


@dataclass(frozen=True, eq=False)
class Assignment:
    """The rule of each step of one graph.

    Attributes:
        composite: who chose.
        graph: whose steps they are.
        rules: rule by node, those of joins included.
        joins: join by the node that holds its value.
        missing: the steps that have no rule.
        folds: batch norm by the node that it is folded into.
    """

    composite: Composite
    graph: Graph
    rules: Mapping[int, Rule]
    joins: Mapping[int, Join]
    missing: tuple[Node, ...] = ()
    folds: Mapping[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The composite's, and the rules that users gave to operations for which relprop has none."""
        own = {op: OWN[op].name for op in (self.graph.nodes[i].op for i in self.rules) if op in OWN}
        used = [f"{op}: {name}" for op, name in own.items() if self.composite.rules.get(op) is None]
        return f"{self.composite.name} ({', '.join(used)})" if used else self.composite.name

    @property
    def positive(self) -> bool:
        """Whether relevance that starts nowhere negative stays so everywhere."""
        return all(rule.positive for rule in self.rules.values())

    def describe(self, node: Node) -> str:
        """Name of the rule that a step takes, as tables print it."""
        if node.index in self.rules:
            return self.rules[node.index].name
        if node in self.missing:
            return "none"
        inner = any(node.index in join.inner for join in self.joins.values())
        return "part of a join" if inner else "gets no relevance"


def _matches(node: Node, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (node.name, node.module))


def _positions(graph: Graph) -> tuple[set[int], set[int]]:
    """First and last weighted layers: those without another before them, and without another behind them.

    A recurrent layer is no first one: the weights that read the input also read what they made of it.
    """
    firsts: dict[int, Hashable] = {}
    read_again: set[Hashable] = set()
    before: set[int] = set()
    for node in graph.steps:
        behind = not before.isdisjoint(node.inputs)
        if node.op in AFFINE and behind:
            read_again.add(_layer_of(graph, node))
        elif node.op in AFFINE:
            firsts[node.index] = _layer_of(graph, node)
        if behind or node.op in AFFINE:
            before.add(node.index)
    lasts: set[int] = set()
    after: set[int] = set()
    for node in reversed(graph.steps):
        if node.op in AFFINE and node.index not in after:
            lasts.add(node.index)
        if node.op in AFFINE or node.index in after:
            after.update(node.inputs)
    return {index for index, layer in firsts.items() if layer not in read_again}, lasts


def _layer_of(graph: Graph, node: Node) -> Hashable:
    """What is equal for steps of one layer: its weight; where that is computed at each call, its module and sizes."""
    weight = node.args[weight_place(node)]
    if isinstance(weight, State) and weight.kept:
        return weight
    return node.module, node.op, node.shape, graph.nodes[node.inputs[0]].shape


def _missing_message(missing: tuple[Node, ...]) -> str:
    by_op: dict[str, list[Node]] = {}
    for node in missing:
        by_op.setdefault(node.op, []).append(node)
    lines = []
    for op, nodes in by_op.items():
        where = ", ".join(map(location_of, nodes[:5]))
        more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
        why = " of two values that both depend on the image" if len(nodes[0].inputs) > 1 else ""
        lines.append(f"no rule for {op!r}{why} at {where}{more}")
    op = next(iter(by_op))
    if any(len(nodes[0].inputs) > 1 for nodes in by_op.values()):
        remedy = f"Write one that returns relevance, or None, for each value, and register it with @rule({op!r})."
    else:
        remedy = f"Write one with @rule({op!r}), or map it: paper().override(rules={{{op!r}: pass_through}})."
    return f"{'; '.join(lines)}. Rules exist for {', '.join(sorted(DEFAULTS | OWN))}. {remedy}"


def location_of(node: Node) -> str:
    """A step's name and its line in the code, for messages."""
    return f"{node.name} ({node.source})" if node.source else node.name
