"""The captured computation: nodes in order of execution, each with its line in the user's code.

    record --> Graph --> plan --> propagate

A graph is a value. It holds no weight of the model (a `State` names one) and no activation.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch

from relprop.errors import UsageError


@dataclass(frozen=True, eq=False, slots=True)
class Ref:
    """Stands for the value of another node. There is one of each number (`ref`), so that they compare fast."""

    index: int


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """Stands for a tensor that does not depend on the image. There is one of each kind (`state`).

    Attributes:
        name: of a parameter or buffer; "constant_3" for what the model's code makes.
        learned: whether a parameter or buffer is in it.
        kept: whether it is itself one: the same tensor at each run.
    """

    name: str
    learned: bool = True
    kept: bool = True


@cache
def ref(index: int) -> Ref:
    """The `Ref` of a number."""
    return Ref(index)


@cache
def state(name: str, *, learned: bool = True, kept: bool = True) -> State:
    """The `State` of a name and kind."""
    return State(name, learned, kept)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        index: position in `Graph.nodes`, which is an order of execution.
        name: unique; "layer1.0.conv1" for a leaf module, "layer1.0.add" for an operation written in a
            module's `forward`, "layer1.0.relu@1" where the same one runs a second time.
        op: kind of operation without its dimension: "conv", "max_pool", "add", ...
        call: function that computes the value from `args` and `kwargs`.
        args, kwargs: arguments; a `Ref` or `State` wherever a tensor is meant.
        inputs: the nodes among the arguments that depend on the image, in order.
        shape: shape of the value, batch included.
        scopes: (call, path) of each module call around it, outermost first.
        source: file, line and text of the code that asked for it.
    """

    index: int
    name: str
    op: str
    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    shape: torch.Size = torch.Size()  # noqa: RUF009 - a constant
    scopes: tuple[tuple[str, str], ...] = ()
    source: str = ""

    @property
    def module(self) -> str:
        """Path of the innermost module around it; "" is the model itself."""
        return self.scopes[-1][1] if self.scopes else ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A model's computation on one image batch.

    Attributes:
        nodes: in order of execution; `nodes[0]` is the input, and all others depend on it.
        output: index of the node that holds the scores: of a model that ends in a softmax or sigmoid, the logits.
        link: what turns these scores into probabilities: "softmax", or "sigmoid" where the model ends in one; or
            "identity" where they are made of results of such steps alone (a mean of softmaxes, 1 - sigmoid), so that
            numbers from 0 to 1 are probabilities already, and "shares" where they are if they sum to one.
        end: the last step of the model that was left out for that: "softmax", "log_softmax", "sigmoid"; "" if none was;
            or "identity" or "shares" as above.
    """

    nodes: tuple[Node, ...]
    output: int
    link: str = "softmax"
    end: str = ""

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @cached_property
    def steps(self) -> tuple[Node, ...]:
        """The nodes that relevance can pass: all but the input."""
        return self.nodes[1:]

    @cached_property
    def shapes(self) -> Mapping[int, torch.Size]:
        """Shape of the value of each node."""
        return {node.index: node.shape for node in self.nodes}

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes that its relevance comes from (one entry a use)."""
        uses: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for source in node.inputs:
                uses[source].append(node.index)
        return tuple(map(tuple, uses))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by their unique name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def _calls(self) -> Mapping[str, frozenset[int]]:
        """Steps inside the first call of each module, by module path."""
        first: dict[str, str] = {}
        inside: dict[str, set[int]] = {}
        for node in self.steps:
            for call, path in node.scopes:
                if path and first.setdefault(path, call) == call:
                    inside.setdefault(path, set()).add(node.index)
        return {path: frozenset(steps) for path, steps in inside.items()}

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that take part, in order of their first use."""
        return tuple(self._calls)

    def tensor(self, name: str, side: str = "output") -> int:
        """Return the node whose value is the input or output of a layer.

        Args:
            name: a node's name, a module's path, "input" (the image) or "output" (the scores).
            side: "input" or "output".

        Raises:
            UsageError: no such layer, or more than one tensor enters or leaves it.
        """
        if side not in ("input", "output"):
            raise UsageError(f"side must be 'input' or 'output', not {side!r}")
        if name in ("input", "output"):
            return 0 if name == "input" else self.output
        if name in self.by_name:
            inside = frozenset([self.by_name[name].index])
        elif name in self._calls:
            inside = self._calls[name]
        else:
            raise UsageError(f"no layer {name!r} lies on the way from the image; {self.nearest(name)}")
        if side == "input":
            found = sorted({source for index in inside for source in self.nodes[index].inputs if source not in inside})
        else:
            leaves = {i for i in inside if any(user not in inside for user in self.consumers[i])}
            found = sorted(leaves | (inside & {self.output}))
        if len(found) != 1:
            names = ", ".join(self.nodes[index].name for index in found)
            raise UsageError(f"{len(found)} tensors are the {side} of {name!r}: name one of {names}")
        return found[0]

    def nearest(self, name: str) -> str:
        """Say which layers there are, those spelled like `name` first."""
        known = [*dict.fromkeys([*self.modules, *(node.name for node in self.steps)])]
        close = difflib.get_close_matches(name, known, n=6, cutoff=0.5) or known[:6]
        return f"near it: {', '.join(close)} (of {len(known)})"

    def sides(self, name: str) -> dict[str, int]:
        """What `tensor` returns for the sides of a layer, "input" and "output", that are one tensor."""
        found = {}
        for side in ("input", "output"):
            with contextlib.suppress(UsageError):
                found[side] = self.tensor(name, side)
        return found


def leaves(argument: Any) -> Iterator[Ref | State]:
    """Every `Ref` and `State` in an argument, nested lists and dicts included, in order."""
    if isinstance(argument, Ref | State):
        yield argument
    elif isinstance(argument, Mapping):
        yield from leaves(tuple(argument.values()))
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from leaves(part)


def refs(argument: Any) -> Iterator[int]:
    """Indices of all nodes that an argument refers to."""
    return (leaf.index for leaf in leaves(argument) if isinstance(leaf, Ref))


def states(argument: Any) -> Iterator[State]:
    """The weights and constants in an argument."""
    return (leaf for leaf in leaves(argument) if isinstance(leaf, State))


def with_defaults(given: Sequence[Any], *defaults: Any) -> list[Any]:
    """Trailing arguments that were left out, filled in."""
    return [*given, *defaults[len(given) :]]


def bind(argument: Any, value: Callable[[Ref | State], Any]) -> Any:
    """Replace every `Ref` and `State` in an argument by its value."""
    if isinstance(argument, Ref | State):
        return value(argument)
    if isinstance(argument, list | tuple):
        return type(argument)(bind(part, value) for part in argument)
    if isinstance(argument, dict):
        return {key: bind(part, value) for key, part in argument.items()}
    return argument
