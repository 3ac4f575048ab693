"""Walk a traced graph backwards, once, and pass relevance from the output to the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.backward.ledger import Entry, Ledger
from relprop.core.backward.pending import Account, memory_of
from relprop.core.backward.plan import Plan, sharing_branches
from relprop.core.backward.trace import Trace
from relprop.core.graph.batch_axis import FIRST
from relprop.core.graph.graph import Node, Ref, State, bind
from relprop.core.graph.joins import Join
from relprop.core.graph.support import Support
from relprop.core.rules.elementwise import fit, pass_through
from relprop.core.rules.rule import Shares
from relprop.core.rules.step import Absent, Step, is_stand_in
from relprop.core.weights.folding import folded
from relprop.core.weights.prepared import Prepared
from relprop.errors import UsageError


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
    plan: Plan,
    trace: Trace,
    prepared: Prepared,
    start: Tensor,
    *,
    keep: frozenset[int],
    book: bool,
    last: bool = False,
) -> Walk:
    """Pass `start`, the relevance of the output, back to the image.

    Args:
        plan: for the graph of the run.
        trace: what the run left.
        prepared: what rules derive from weights.
        start: relevance of the output, in its shape.
        keep: nodes whose relevance is returned.
        book: whether to keep a ledger.
        last: whether nobody needs the trace afterwards: its values are given up on the way.
    """
    graph, count = plan.graph, start.shape[0]
    total = FIRST.total(start, count)
    accounts: dict[int, Account] = {graph.output: Account(start, total if book else None, owned=False)}
    entries: list[Entry] = []
    kept: dict[int, Tensor] = {}
    positive = plan.assignment.positive and _of_one_sign(start)
    for node in reversed(graph.steps):
        for value in plan.spent[node.index] if last else ():
            trace.values.pop(value, None)
        account = accounts.pop(node.index, None)
        if node.index in keep:
            kept[node.index] = account.relevance if account else start.new_zeros(trace.shapes[node.index])
        if account is None:
            continue
        seen, blind = account.seen(_there(plan, trace, node.index))
        sources, shares = _share(plan, trace, prepared, node, seen.relevance)
        held = node.index in keep or len(shares) > 1
        several = len(shares) > 1 and len({_where(share) for share in shares}) < len(shares)
        shared = several or not _ours(plan, node)
        sent = [
            seen.passed(share, plan.places[source], held=held, shared=shared)
            for source, share in zip(sources, shares, strict=True)
        ]
        for source, part in zip(sources, sent, strict=True):
            known = accounts.get(source)
            accounts[source] = part if known is None else known.plus(part)
        if book:
            entries.append(_entry(plan, node, account, blind, sent, positive))
    image = accounts[0].relevance if 0 in accounts else start.new_zeros(trace.shapes[0])
    if 0 in keep:
        kept[0] = image
    return Walk(image, kept, Ledger(tuple(entries), total, FIRST.total(image, count)) if book else None)


def _where(share: Tensor) -> tuple[int, object]:
    """The memory that a tensor lies in, and from where on."""
    return memory_of(share), share.storage_offset()


def _share(
    plan: Plan, trace: Trace, prepared: Prepared, node: Node, relevance: Tensor
) -> tuple[list[int], list[Tensor]]:
    """Relevance of each input of a step: (inputs, shares)."""
    if not _ours(plan, node):
        relevance = relevance.clone()  # a user's function may write to what it is given
    join = plan.assignment.joins.get(node.index)
    if join is not None:
        return _share_join(plan, trace, join, relevance)
    if plan.assignment.rules[node.index].share is pass_through.share:
        return [node.inputs[0]], [relevance]
    step = _step(plan, trace, prepared, node)
    shares: Shares = plan.assignment.rules[node.index](step, relevance)
    if isinstance(shares, Tensor):
        shares = (shares,)
    if len(shares) != len(node.inputs):
        raise UsageError(
            f"the rule {plan.assignment.describe(node)!r} returned relevance for {len(shares)} value(s) at "
            f"{node.name}, which has {len(node.inputs)}; return a tuple, with None for those that get nothing"
        )
    pairs = [(source, share) for source, share in zip(node.inputs, shares, strict=True) if share is not None]
    for source, share in pairs:
        if share.shape != trace.shapes[source]:
            raise UsageError(
                f"the rule {plan.assignment.describe(node)!r} at {node.name} returned relevance of shape "
                f"{tuple(share.shape)}; it must have the shape of the step's input, {tuple(trace.shapes[source])}"
            )
    return [source for source, _ in pairs], [share for _, share in pairs]


def _ours(plan: Plan, node: Node) -> bool:
    """Whether the function that shares at a node is part of relprop, and so known to keep to itself."""
    rule = plan.assignment.rules.get(node.index)
    if rule is not None:
        return rule.of_relprop
    return getattr(plan.assignment.composite.split, "__module__", "").startswith("relprop.")


def _share_join(plan: Plan, trace: Trace, join: Join, relevance: Tensor) -> tuple[list[int], list[Tensor]]:
    """Split at a join. Where a branch does not depend on the image (padded channels), the others take its share."""
    sharing = sharing_branches(join, plan.assignment)
    branches = [join.branches[k] for k in sharing]
    if len(branches) == 1:
        return branches, [fit(relevance, trace.shapes[branches[0]])]
    values = [trace.values.get(b) for b in branches]
    scaled = [
        v if v is None or join.scales[k] == 1 else v * join.scales[k] for v, k in zip(values, sharing, strict=True)
    ]
    operands = [relevance if v is None else v.expand(relevance.shape) for v in scaled]
    parts = [*plan.assignment.composite.split(tuple(operands), relevance)]
    _give_back(parts, [_there(plan, trace, b) for b in branches])
    return branches, [fit(part, trace.shapes[b]) for part, b in zip(parts, branches, strict=True)]


def _there(plan: Plan, trace: Trace, index: int) -> Support:
    """Where a value of the batch depends on the image, ready to broadcast."""
    support = plan.supports[index]
    return None if support is None else support.to(trace.output.device)


def _give_back(parts: list[Tensor], supports: list[Support]) -> None:
    """Move what a split gave to padding over to a branch that is there."""
    if all(support is None for support in supports):
        return
    everywhere = next((k for k, support in enumerate(supports) if support is None), None)
    for k, support in enumerate(supports):
        if support is None:
            continue
        lost = torch.where(support, 0, parts[k])
        parts[k] = parts[k] - lost
        for other, there in enumerate(supports):
            if everywhere is not None:
                parts[everywhere] = parts[everywhere] + lost
                break
            if other != k and there is not None:
                moved = torch.where(there, lost, 0)
                parts[other], lost = parts[other] + moved, lost - moved


def _step(plan: Plan, trace: Trace, prepared: Prepared, node: Node) -> Step:
    rule = plan.assignment.rules[node.index]
    reads = "inputs" in rule.reads

    def value(argument: Ref | State) -> Any:
        return trace.states[argument.name] if isinstance(argument, State) else Absent(trace.shapes[argument.index])

    args = bind(node.args, value)
    if node.index in plan.assignment.folds:
        norm = plan.graph.nodes[plan.assignment.folds[node.index]]
        weight, bias = folded(node, norm, trace.states, prepared)
        args = (args[0], prepared.numbers(node.args[1].name, weight), bias, *args[3:])
    return Step(
        node=node,
        inputs=tuple(trace.values[i] if reads else None for i in node.inputs),
        output=trace.values[node.index] if "output" in rule.reads else None,
        args=args,
        kwargs=bind(dict(node.kwargs), value),
        shapes=tuple(trace.shapes[i] for i in node.inputs),
        nonnegative=tuple(plan.nonnegative[i] for i in node.inputs),
        supports=tuple(_there(plan, trace, i) for i in node.inputs),
        prepared=prepared,
    )


def _of_one_sign(start: Tensor) -> bool:
    """Whether each image's relevance begins nowhere above, or nowhere below, zero; a contrast's does not."""
    if is_stand_in(start):
        return True  # compiled graphs explain classes, whose relevance begins at one place
    rows = start.reshape(start.shape[0], -1)
    return bool(((rows >= 0).all(1) | (rows <= 0).all(1)).all())


def _entry(
    plan: Plan, node: Node, account: Account, blind: Tensor | float, sent: list[Account], positive: bool
) -> Entry:
    assert account.total is not None
    magnitude = account.total if positive else account.magnitude()
    totals = [part.total for part in sent if part.total is not None]
    total = sum(totals[1:], totals[0]) if totals else torch.zeros_like(account.total)
    rule = plan.assignment.rules.get(node.index)
    conserves = rule is None or rule.conserves  # a split hands out the remainder, so it always can
    name = plan.assignment.describe(node)
    return Entry(node.name, node.op, name, conserves, account.total, total, magnitude, blind)
