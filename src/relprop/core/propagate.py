"""Walk a traced graph backwards, once, and pass relevance from the output to the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.composite import Assignment
from relprop.core.graph import Graph, Node, Ref, State, bind
from relprop.core.joins import Join
from relprop.core.ledger import Entry, Ledger
from relprop.core.nonnegative import nonnegative
from relprop.core.rules.elementwise import fit
from relprop.core.rules.rule import Shares
from relprop.core.support import Support
from relprop.core.trace import Absent, Prepared, Step, Trace


@dataclass(frozen=True, eq=False)
class Way:
    """All that is known before a run: made once per graph and composite.

    Attributes:
        graph: the computation.
        assignment: rule of each step.
        supports: positions of each value that depend on the image.
        nonnegative: for each node, whether its value can be negative nowhere.
        keep: nodes whose values the rules read.
        prepared: what rules derive from weights.
    """

    graph: Graph
    assignment: Assignment
    supports: tuple[Support, ...]
    nonnegative: tuple[bool, ...]
    keep: frozenset[int]
    prepared: Prepared


def make_way(graph: Graph, assignment: Assignment, supports: tuple[Support, ...]) -> Way:
    """Find out which forward values the rules read."""
    keep: set[int] = set()
    for index, rule in assignment.rules.items():
        if "inputs" in rule.reads:
            keep.update(graph.nodes[index].inputs)
        if "output" in rule.reads:
            keep.add(index)
    for join in assignment.joins.values():
        if len(_sharing(join, assignment)) > 1 and assignment.composite.split.__name__ != "symmetric":
            keep.update(join.branches[k] for k in _sharing(join, assignment))
    return Way(graph, assignment, supports, nonnegative(graph), frozenset(keep), Prepared())


def _sharing(join: Join, assignment: Assignment) -> list[int]:
    """The branches that take part: all, less the identity skips where they are left out."""
    everyone = range(len(join.branches))
    chosen = [k for k in everyone if assignment.composite.identity or not join.identities[k]]
    return chosen or [*everyone]


@dataclass(frozen=True, eq=False)
class Walk:
    """Outcome of one walk.

    Attributes:
        image: (N, ...) relevance of the input.
        kept: relevance of the tensors asked for, by node.
        ledger: None where none was kept.
    """

    image: Tensor
    kept: Mapping[int, Tensor]
    ledger: Ledger | None


def propagate(
    way: Way, trace: Trace, state: Mapping[str, Tensor], start: Tensor, *, keep: frozenset[int], book: bool
) -> Walk:
    """Pass `start`, the relevance of the output, back to the image.

    Args:
        way: from `make_way`.
        trace: one run, with the values in `way.keep`.
        state: weights and constants by name, as in the run.
        start: relevance of the output, in its shape.
        keep: nodes whose relevance is returned.
        book: whether to keep a ledger.
    """
    graph = way.graph
    accounts: dict[int, _Account] = {graph.output: _Account(start, _total(start) if book else None)}
    entries: list[Entry] = []
    kept: dict[int, Tensor] = {}
    for node in reversed(graph.steps):
        account = accounts.pop(node.index, None)
        if node.index in keep:
            kept[node.index] = (
                account.relevance
                if account
                else torch.zeros(trace.shapes[node.index], dtype=start.dtype, device=start.device)
            )
        if account is None:
            continue
        sources, shares = _share(way, trace, state, node, account.relevance)
        sent = [_Account(share, _sum_of(share, account) if book else None) for share in shares]
        for source, part in zip(sources, sent, strict=True):
            known = accounts.get(source)
            accounts[source] = part if known is None else known.plus(part)
        if book:
            entries.append(_entry(way, node, account, sent))
    image = accounts.pop(0, None) or _Account(torch.zeros_like(trace.values.get(0, start)), None)
    if 0 in keep:
        kept[0] = image.relevance
    ledger = Ledger(tuple(entries), _total(start), _total(image.relevance)) if book else None
    return Walk(image.relevance, kept, ledger)


@dataclass(eq=False)
class _Account:
    """Relevance of a tensor on the way, and its sums (N,); sums are reused where relevance merely passes through."""

    relevance: Tensor
    total: Tensor | None

    def plus(self, other: _Account) -> _Account:
        added = self.relevance + other.relevance
        return _Account(added, None if self.total is None else _total(added))


def _sum_of(share: Tensor, account: _Account) -> Tensor:
    if share is account.relevance or (
        share.numel() == account.relevance.numel() and share.data_ptr() == account.relevance.data_ptr()
    ):
        assert account.total is not None
        return account.total
    return _total(share)


def _share(
    way: Way, trace: Trace, state: Mapping[str, Tensor], node: Node, relevance: Tensor
) -> tuple[list[int], list[Tensor]]:
    """Relevance of each input of a step: (inputs, shares)."""
    join = way.assignment.joins.get(node.index)
    if join is not None:
        return _share_join(way, trace, join, relevance)
    step = _step(way, trace, state, node)
    shares: Shares = way.assignment.rules[node.index](step, relevance)
    if isinstance(shares, Tensor):
        shares = (shares,)
    pairs = [(source, share) for source, share in zip(node.inputs, shares, strict=True) if share is not None]
    return [source for source, _ in pairs], [share for _, share in pairs]


def _share_join(way: Way, trace: Trace, join: Join, relevance: Tensor) -> tuple[list[int], list[Tensor]]:
    """Split at a join. Where a branch does not depend on the image (padded channels), the others take its share."""
    sharing = _sharing(join, way.assignment)
    branches = [join.branches[k] for k in sharing]
    if len(branches) == 1:
        return branches, [fit(relevance, trace.shapes[branches[0]])]
    values = [trace.values.get(b) for b in branches]
    scaled = [
        v if v is None or join.scales[k] == 1 else v * join.scales[k] for v, k in zip(values, sharing, strict=True)
    ]
    operands = [relevance if v is None else v.expand(relevance.shape) for v in scaled]
    parts = [*way.assignment.composite.split(tuple(operands), relevance)]
    _give_back(parts, [way.supports[b] for b in branches])
    return branches, [fit(part, trace.shapes[b]) for part, b in zip(parts, branches, strict=True)]


def _give_back(parts: list[Tensor], supports: list[Support]) -> None:
    """Move what a split gave to padding over to a branch that is there."""
    if all(support is None for support in supports):
        return
    device = parts[0].device
    everywhere = next((k for k, support in enumerate(supports) if support is None), None)
    for k, support in enumerate(supports):
        if support is None:
            continue
        lost = torch.where(support.to(device), 0, parts[k])
        parts[k] = parts[k] - lost
        for other, there in enumerate(supports):
            if everywhere is not None:
                parts[everywhere] = parts[everywhere] + lost
                break
            if other != k and there is not None:
                moved = torch.where(there.to(device), lost, 0)
                parts[other], lost = parts[other] + moved, lost - moved


def _step(way: Way, trace: Trace, state: Mapping[str, Tensor], node: Node) -> Step:
    rule = way.assignment.rules[node.index]
    reads = "inputs" in rule.reads
    inputs = set(node.inputs)

    def value(argument: Ref | State) -> Any:
        if isinstance(argument, State):
            return state[argument.name]
        return Absent(trace.shapes[argument.index]) if argument.index in inputs else trace.values[argument.index]

    scale, shift = _fold(way, state, node)
    return Step(
        node=node,
        inputs=tuple(trace.values[i] if reads else None for i in node.inputs),
        output=trace.values[node.index] if "output" in rule.reads else None,
        args=bind(node.args, value),
        kwargs=bind(dict(node.kwargs), value),
        shapes=tuple(trace.shapes[i] for i in node.inputs),
        nonnegative=tuple(way.nonnegative[i] for i in node.inputs),
        supports=tuple(way.supports[i] for i in node.inputs),
        prepared=way.prepared,
        scale=scale,
        shift=shift,
    )


def _fold(way: Way, state: Mapping[str, Tensor], node: Node) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift of the batch norm that is folded into a step: y -> y γ/σ + (β - μ γ/σ)."""
    folded = way.assignment.folds.get(node.index)
    if folded is None:
        return None, None
    _, weight, bias, mean, variance, _, eps = bind(
        way.graph.nodes[folded].args, lambda a: state[a.name] if isinstance(a, State) else None
    )
    deviation = (variance + eps).sqrt()
    scale = 1 / deviation if weight is None else weight / deviation
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale, shift


def _entry(way: Way, node: Node, account: _Account, sent: list[_Account]) -> Entry:
    assert account.total is not None
    total = sum((part.total for part in sent if part.total is not None), torch.zeros_like(account.total))
    rule = way.assignment.rules.get(node.index)
    support = way.supports[node.index]
    blind = 0.0 if support is None else _total(torch.where(support.to(account.relevance.device), 0, account.relevance))
    magnitude = account.total.abs() if way.assignment.positive else _total(account.relevance, magnitude=True)
    conserves = rule is None or rule.conserves  # a split hands out the remainder, so it always can
    return Entry(node.name, node.op, way.assignment.describe(node), conserves, account.total, total, magnitude, blind)


def _total(relevance: Tensor, *, magnitude: bool = False) -> Tensor:
    """(N,) float64 sum of each sample, over its own layout: flattening a channels-last tensor would copy it."""
    exact = torch.float32 if relevance.device.type == "mps" else torch.float64
    if relevance.dim() == 1:
        return relevance.abs().to(exact) if magnitude else relevance.to(exact)
    dims = tuple(range(1, relevance.dim()))
    if magnitude:
        norm: Tensor = torch.linalg.vector_norm(relevance, 1, dims, dtype=exact)
        return norm
    return relevance.sum(dims, dtype=exact)
