"""What a rule is, and the step that it sees: a function from that and its relevance to relevance of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from relprop.core.graph.graph import Graph, Node
from relprop.core.graph.support import Support
from relprop.core.weights.prepared import Prepared
from relprop.errors import UsageError
from relprop.registry import Registry


def is_fake(value: Tensor) -> bool:
    """Whether it has a shape and no data, as values have while a graph is made: code may not branch on it then."""
    return isinstance(value, FakeTensor)


@dataclass(frozen=True)
class Absent:
    """Stands in a step's arguments for an input that depends on the image: `Step.inputs` has its value, if anything."""

    shape: torch.Size


@dataclass(frozen=True, eq=False)
class Step:
    """A node bound to the values of one run: what a rule sees.

    Attributes:
        node: the operation.
        inputs: value of each input that depends on the image, None where the rule reads none.
        output: the value, None where the rule does not read it.
        args, kwargs: arguments, with weights in place, and `Absent` for each input.
        shapes: shape of each input.
        nonnegative: for each input, whether it can have no negative value.
        supports: for each input, the positions that depend on the image; None means all.
        prepared: cache of what derives from weights alone.
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    output: Tensor | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[torch.Size, ...]
    nonnegative: tuple[bool, ...]
    supports: tuple[Support, ...]
    prepared: Prepared

    @property
    def input(self) -> Tensor:
        """Value of the one input."""
        value = self.inputs[0]
        assert value is not None, f"the rule at {self.node.name} reads an input that it did not ask for"
        return value


#: relevance of the one input, or of each input; None sends nothing
Shares = Tensor | tuple[Tensor | None, ...]
Share = Callable[[Step, Tensor], Shares]
Reads = Literal["inputs", "output"]


@dataclass(frozen=True)
class Rule:
    """How one kind of operation passes relevance on.

    Attributes:
        name: as tables print it.
        share: (step, relevance of its output) -> relevance of its inputs.
        reads: the forward values it looks at; nothing else is kept for it.
        conserves: whether the parts must add up to the whole. A difference is a leak then; else it is absorbed.
        positive: whether relevance that is nowhere negative stays so.
        receives: for each input whether it may get relevance, where some get none; what lies behind those needs no rule
            and keeps no value. None means that all may.
        several: whether it shares between several inputs; with `receives` it does.
        sources: the nodes that share its relevance, where those are not the inputs of the step: the branches of a join
            that is a chain of sums.
        choose: (graph, node) -> the rule of this very step, where that depends on its place: on which operand of a
            product is the gate. None where none can serve there.
    """

    name: str
    share: Share
    reads: frozenset[Reads] = frozenset({"inputs"})
    conserves: bool = True
    positive: bool = True
    receives: tuple[bool, ...] | None = None
    several: bool = False
    choose: Callable[[Graph, Node], Rule | None] | None = None
    sources: tuple[int, ...] | None = None

    def __call__(self, step: Step, relevance: Tensor) -> Shares:
        """Share `relevance` among the inputs of `step`."""
        return self.share(step, relevance)

    def at(self, graph: Graph, node: Node) -> Rule | None:
        """The rule of one step; None where it cannot serve there: a built-in rule of one value at a step of several."""
        rule = self if self.choose is None else self.choose(graph, node)
        if rule is None:
            return None
        several = rule.several or rule.receives is not None or not rule.of_relprop
        return rule if several or len(node.inputs) == 1 else None

    def sources_of(self, node: Node) -> tuple[int, ...]:
        """The nodes between whose values it shares."""
        return node.inputs if self.sources is None else self.sources

    def receivers(self, node: Node) -> tuple[int, ...]:
        """Those of them that may get relevance."""
        sources = self.sources_of(node)
        if self.receives is None:
            return sources
        return tuple(source for source, gets in zip(sources, self.receives, strict=True) if gets)

    @property
    def of_relprop(self) -> bool:
        """Whether it is one of ours, which write to nothing that they are given, and keep nothing they return."""
        return (getattr(self.share, "__module__", None) or "").startswith("relprop.")


#: the rule of each operation for which a composite says nothing else; what the named composites mean rests on it
DEFAULTS: dict[str, Rule] = {}

#: rules that users gave to operations which have none here
OWN: dict[str, Rule] = {}

#: rules by name, for the command line and the reference
RULES: Registry[Rule] = Registry("rule")


def rule(
    *ops: str,
    name: str | None = None,
    reads: tuple[Reads, ...] = ("inputs",),
    conserves: bool = True,
    positive: bool = True,
    several: bool = False,
) -> Callable[[Share], Rule]:
    """Make a rule of a function, and the default of the operations named.

        @rule("my_op")
        def halve(step, relevance): ...

    Results name such a rule beside the composite. Operations that relprop has a rule for keep it, so that a composite
    means the same in every process: give another to a composite of your own, `paper().override(rules={"conv": mine})`.

    Args:
        ops: canonical names of operations ("hypot", "my_library::my_op", ...) that it is the default of; may be none.
        name: as tables print it; the function's name by default.
        reads: "inputs" and "output", whichever forward values it looks at.
        conserves: whether the parts add up to the whole.
        positive: whether relevance that is nowhere negative stays so.
        several: whether it returns one relevance, or None, for each of several inputs.

    Raises:
        UsageError: relprop has a rule for one of `ops`.
    """

    def make(share: Share) -> Rule:
        made = Rule(
            name or share.__name__.replace("_", "-"), share, frozenset(reads), conserves, positive, None, several
        )
        object.__setattr__(made, "__doc__", share.__doc__)  # help(rule) shows the equation
        taken = [] if made.of_relprop else [op for op in ops if op in DEFAULTS]
        if taken:
            raise UsageError(
                f"relprop has a rule for {taken[0]!r} ({DEFAULTS[taken[0]].name}), on which the meaning of its "
                "composites rests; give yours to a composite of your own: "
                f"paper().override(rules={{{taken[0]!r}: {share.__name__}}}), with @rule() above it"
            )
        (DEFAULTS if made.of_relprop else OWN).update(dict.fromkeys(ops, made))
        return made

    return make


def default_of(op: str) -> Rule | None:
    """The rule of an operation for which a composite says nothing; None where there is none."""
    return DEFAULTS.get(op) or OWN.get(op)
