"""What a rule is: a function from a step and its relevance to the relevance of the step's inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from relprop.core.trace import Step
from relprop.registry import Registry

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
    """

    name: str
    share: Share
    reads: frozenset[Reads] = frozenset({"inputs"})
    conserves: bool = True
    positive: bool = True

    def __call__(self, step: Step, relevance: Tensor) -> Shares:
        """Share `relevance` among the inputs of `step`."""
        return self.share(step, relevance)

    @property
    def of_relprop(self) -> bool:
        """Whether it is one of ours, which write to nothing that they are given, and keep nothing they return."""
        return (getattr(self.share, "__module__", None) or "").startswith("relprop.")

    def named(self, name: str) -> Rule:
        """The same rule under another name."""
        return replace(self, name=name)


#: the rule of each operation for which a composite says nothing else
DEFAULTS: dict[str, Rule] = {}

#: rules by name, for the command line and the reference
RULES: Registry[Rule] = Registry("rule")


def rule(
    *ops: str,
    name: str | None = None,
    reads: tuple[Reads, ...] = ("inputs",),
    conserves: bool = True,
    positive: bool = True,
) -> Callable[[Share], Rule]:
    """Make a rule of a function, and the default of the operations named.

        @rule("my_op")
        def halve(step, relevance): ...

    Args:
        ops: canonical names of operations ("conv", "add", ...) that it is the default of; may be none.
        name: as tables print it; the function's name by default.
        reads: "inputs" and "output", whichever forward values it looks at.
        conserves: whether the parts add up to the whole.
        positive: whether relevance that is nowhere negative stays so.
    """

    def make(share: Share) -> Rule:
        made = Rule(name or share.__name__.replace("_", "-"), share, frozenset(reads), conserves, positive)
        made = _with_doc(made, share)
        for op in ops:
            DEFAULTS[op] = made
        return made

    return make


def _with_doc(made: Rule, share: Share) -> Rule:
    object.__setattr__(made, "__doc__", share.__doc__)  # help(rule) shows the equation
    return made
