"""Pass relevance back through a recorded run, once, from the output to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.core.backward.ledger import Entry, Ledger
from relprop.core.backward.pending import Pending, memory_of
from relprop.core.backward.plan import Plan, Stage, Trace
from relprop.core.backward.through import Gates
from relprop.core.graph.batch_axis import FIRST
from relprop.core.graph.support import Support
from relprop.core.rules.rule import Shares, Step, is_fake
from relprop.core.weights.folding import folded
from relprop.core.weights.prepared import Prepared
from relprop.errors import UsageError


@dataclass(frozen=True, eq=False)
class BackwardPass:
    """Outcome of one backward pass.

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
    ledger: bool,
    last: bool = False,
    gates: Gates | None = None,
    begins_at: int | None = None,
) -> BackwardPass:
    """Pass `start`, the relevance of the output, back to the image.

    Args:
        plan: for the graph of the run.
        trace: what the run left.
        prepared: what rules derive from weights.
        start: relevance of the output, in its shape.
        keep: nodes whose relevance is returned.
        ledger: whether to keep a ledger.
        last: whether nobody needs the trace afterwards: its values are given up on the way.
        gates: channels through which alone relevance goes on, by node.
        begins_at: the node whose relevance `start` is; by default the output.
    """
    graph, count = plan.graph, start.shape[0]
    total = FIRST.total(start, count)
    gates, first = gates or {}, graph.output if begins_at is None else begins_at
    pending: dict[int, Pending] = {first: Pending(start, total if ledger else None, owned=False)}
    entries: list[Entry] = []
    kept: dict[int, Tensor] = {}
    positive = plan.assignment.positive and _of_one_sign(start)
    for node, stage in plan.stages:
        for value in plan.spent[node.index] if last else ():
            trace.values.pop(value, None)
        here = _gated(pending.pop(node.index, None), gates, node.index, entries)
        if node.index in keep:
            kept[node.index] = here.relevance if here else start.new_zeros(trace.shapes[node.index])
        if here is None:
            continue
        assert stage is not None, "relevance arrives where there is a rule"
        magnitude = None if not ledger else here.total if positive else here.magnitude()
        seen, outside = here.seen(_there(plan, trace, node.index))
        sources, shares = _share(plan, trace, prepared, stage, seen.relevance)
        held = node.index in keep or len(shares) > 1
        several = len(shares) > 1 and len({_where(share) for share in shares}) < len(shares)
        shared = several or not stage.ours
        sent = [
            seen.passed(share, plan.places[source], held=held, shared=shared)
            for source, share in zip(sources, shares, strict=True)
        ]
        for source, part in zip(sources, sent, strict=True):
            known = pending.get(source)
            pending[source] = part if known is None else known.plus(part)
        if magnitude is not None:
            entries.append(_entry(stage, here, outside, sent, magnitude))
    end = _gated(pending.pop(0, None), gates, 0, entries)
    image = end.relevance if end else start.new_zeros(trace.shapes[0])
    if 0 in keep:
        kept[0] = image
    return BackwardPass(image, kept, Ledger(tuple(entries), total, FIRST.total(image, count)) if ledger else None)


def _gated(here: Pending | None, gates: Gates, index: int, entries: list[Entry]) -> Pending | None:
    """What goes on through the channels that are let through; the ledger says what does not."""
    if here is None or index not in gates:
        return here
    left, line = gates[index].pass_on(here)
    entries += [line] if line else []
    return left


def _where(share: Tensor) -> tuple[int, object]:
    """The memory that a tensor lies in, and from where on."""
    return memory_of(share), share.storage_offset()


def _share(
    plan: Plan, trace: Trace, prepared: Prepared, stage: Stage, relevance: Tensor
) -> tuple[Sequence[int], Sequence[Tensor]]:
    """Relevance of each input of a step: (inputs, shares)."""
    if stage.passes:
        return stage.sources, (relevance,)
    rule, sources = stage.rule, stage.sources
    if not stage.ours:
        relevance = relevance.clone()  # a user's function may write to what it is given
    shares: Shares = rule(_step(plan, trace, prepared, stage), relevance)
    if isinstance(shares, Tensor):
        shares = (shares,)
    if len(shares) != len(sources):
        raise UsageError(
            f"the rule {rule.name!r} returned relevance for {len(shares)} value(s) at "
            f"{stage.node.name}, which has {len(sources)}; return a tuple, with None for those that get nothing"
        )
    for share, shape in zip(shares, stage.shapes, strict=True):
        if share is not None and share.shape != shape:
            raise UsageError(
                f"the rule {rule.name!r} at {stage.node.name} returned relevance of shape "
                f"{tuple(share.shape)}; it must have the shape of the step's input, {tuple(shape)}"
            )
    pairs = [(source, share) for source, share in zip(sources, shares, strict=True) if share is not None]
    return [source for source, _ in pairs], [share for _, share in pairs]


def _there(plan: Plan, trace: Trace, index: int) -> Support:
    """Where a value of the batch depends on the image, ready to broadcast."""
    support = plan.supports[index]
    return None if support is None else support.to(trace.output.device)


def _step(plan: Plan, trace: Trace, prepared: Prepared, stage: Stage) -> Step:
    node, reads = stage.node, stage.rule.reads
    args, kwargs = stage.given(trace.states)
    if node.index in plan.assignment.folds:
        norm = plan.graph.nodes[plan.assignment.folds[node.index]]
        weight, bias = folded(node, norm, trace.states, prepared)
        args = (args[0], prepared.numbers(node.args[1].name, weight), bias, *args[3:])
    return Step(
        node=node,
        inputs=tuple([trace.values[i] if "inputs" in reads else None for i in stage.sources]),
        output=trace.values[node.index] if "output" in reads else None,
        args=args,
        kwargs=kwargs,
        shapes=stage.shapes,
        nonnegative=stage.nonnegative,
        supports=tuple([_there(plan, trace, i) for i in stage.sources]),
        prepared=prepared,
    )


def _of_one_sign(start: Tensor) -> bool:
    """Whether each image's relevance begins nowhere above, or nowhere below, zero; a contrast's does not."""
    if is_fake(start):
        return True  # compiled graphs explain classes, whose relevance begins at one place
    rows = start.reshape(start.shape[0], -1)
    return bool(((rows >= 0).all(1) | (rows <= 0).all(1)).all())


def _entry(stage: Stage, here: Pending, outside: Tensor | float, sent: list[Pending], magnitude: Tensor) -> Entry:
    assert here.total is not None
    totals = [part.total for part in sent if part.total is not None]
    total = sum(totals[1:], totals[0]) if totals else torch.zeros_like(here.total)
    node, rule = stage.node, stage.rule
    return Entry(node.name, node.op, rule.name, rule.conserves, here.total, total, magnitude, outside)
