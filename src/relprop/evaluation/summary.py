"""Averages of rows: mean, standard error, n, failures, and paired differences against one explainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from relprop.errors import RunError, require
from relprop.evaluation.plan import CONTROLS, short_data, short_model
from relprop.evaluation.tables import Line, Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from relprop.evaluation.plan import Plan

KEY = ("explainer", "post", "metric", "protocol", "ties")


def label(explainer: str, post: str) -> str:
    """Return how an explainer with a post-processing is named: "lrp", "lrp+quantize:8"."""
    return explainer if post in ("", "none") else f"{explainer}+{post}"


def summarise(rows: pl.LazyFrame, plan: Plan, versus: str | None = None, done: str = "") -> Summary:
    """Average rows over the samples.

    Args:
        rows: one a sample, explainer, post-processing, metric and protocol.
        plan: that they belong to.
        versus: an explainer of the plan (or "explainer+post") to take differences against, sample by sample.
        done: said in the caption if the run is not finished.

    Raises:
        RunError: `versus` is not in the plan.
    """
    polars = require("polars", "eval")
    value = polars.col("value")
    paired = {} if versus is None else _paired(polars, rows, _reference(plan, versus))
    lines = []
    for row in _collect(rows.group_by(KEY).agg(*_moments(value), value.is_null().sum().alias("failures"))):
        key = _key(row)
        lines.append(Line(*key, *_mean_and_error(row), row["failures"], *paired.get(key, (None, None, None))))
    lines.sort(key=_order(plan))
    unread, unread_notes = _unread(polars, rows)
    failed = [f"{spec} failed on {n} samples, for example: {reason}" for spec, n, reason in failures(rows)]
    notes = (*_absent_controls(plan), *_unfair({line.ties for line in lines}), *unread_notes, *failed)
    return Summary(tuple(lines), _caption(plan, done), notes, versus, unread)


def _key(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    return row["explainer"], row["post"], row["metric"], row["protocol"], row["ties"]


def _moments(value: Any) -> list[Any]:
    return [value.mean().alias("mean"), value.std(ddof=1).alias("std"), value.count().alias("n")]


def _mean_and_error(row: dict[str, Any]) -> tuple[float | None, float | None, int]:
    n = int(row["n"])
    return row["mean"], row["std"] / math.sqrt(n) if n > 1 else None, n


def _collect(frame: pl.LazyFrame) -> list[dict[str, Any]]:
    return frame.collect(engine="streaming").to_dicts()


def _reference(plan: Plan, versus: str) -> tuple[str, str]:
    """Find explainer and post-processing that `versus` names; without a post-processing, the plan's first."""
    names = {label(explainer, post): (explainer, post) for explainer in plan.explainers for post in plan.post}
    names = {explainer: (explainer, plan.post[0]) for explainer in plan.explainers} | names
    if versus not in names:
        raise RunError(f"nothing in this run is called {versus!r}; differences can be taken against {', '.join(names)}")
    return names[versus]


def _paired(
    polars: Any, rows: pl.LazyFrame, reference: tuple[str, str]
) -> dict[tuple[str, ...], tuple[float | None, float | None, int]]:
    """Differences to the reference, sample by sample: what both share in a sample cancels."""
    on = ["sample", "metric", "protocol", "ties"]
    explainer, post = reference
    base = rows.filter((polars.col("explainer") == explainer) & (polars.col("post") == post))
    base = base.select(*on, polars.col("value").alias("base"))
    difference = polars.col("value") - polars.col("base")
    table = _collect(rows.join(base, on=on).group_by(KEY).agg(*_moments(difference)))
    return {_key(row): _mean_and_error(row) for row in table}


def _order(plan: Plan) -> Callable[[Line], tuple[Any, ...]]:
    """Sort as in the plan, controls last, a metric's values as it names them."""
    from relprop.metrics import METRICS

    order_of = {spec: at for at, spec in enumerate(sorted(plan.explainers, key=is_control))}
    steps = {spec: at for at, spec in enumerate(plan.post)}
    named = [(spec, METRICS.get(spec.split(":")[0])) for spec in plan.metrics if spec.split(":")[0] in METRICS]
    order = [name + "".join(spec.partition(":")[1:]) for spec, metric in named for name in getattr(metric, "rows", ())]
    metrics = {name: at for at, name in enumerate(order)}
    protocols = {spec: at for at, spec in enumerate(("", *plan.protocols))}

    def key(line: Line) -> tuple[Any, ...]:
        where = order_of[line.explainer], steps[line.post]
        return (
            protocols.get(line.protocol, len(protocols)),
            line.ties,
            *where,
            metrics.get(line.metric, len(metrics)),
            line.metric,
        )

    return key


def is_control(spec: str) -> bool:
    """Whether an explainer looks at nothing."""
    return spec.split(":")[0] in CONTROLS


def _caption(plan: Plan, done: str) -> str:
    parts = [f"{short_model(plan.model.name)} on {short_data(plan.data)}", f"explaining the {plan.target} class"]
    return ", ".join([*parts, *scored(plan.step, plan.amp), *([done] if done else []), f"plan {plan.digest}"])


def scored(step: float | None, amp: bool) -> list[str]:
    """Say in what pictures are masked and scored otherwise than a protocol does by itself, for captions."""
    parts = [] if step is None else [f"{step:g} pixels a step" if step >= 1 else f"{step:.3g} of the pixels a step"]
    return [*parts, *(["masked pictures scored in bfloat16"] if amp else [])]


def _absent_controls(plan: Plan) -> list[str]:
    there = {spec.split(":")[0] for spec in plan.explainers}
    absent = [control for control in CONTROLS if control not in there]
    if not absent:
        return []
    return [f"There is no {' and no '.join(absent)} control in this run: nothing shows what the metrics give away."]


def _unfair(ties: set[str]) -> list[str]:
    """Warn of a table in which ties decide, and nothing beside it shows how much."""
    if ties - {""} != {"together"}:
        return []
    return ["Tied pixels change together here, which rewards maps with many ties: read it beside --protocol fair."]


def _unread(polars: Any, rows: pl.LazyFrame) -> tuple[int, list[str]]:
    """Count the pictures that could not be read, and quote a reason."""
    lost = rows.filter(polars.col("target").is_null())
    row = _collect(lost.select(polars.col("sample").n_unique(), polars.col("error").min()))[0]
    count = int(row["sample"])
    return count, [f"{count} pictures could not be read, for example: {row['error']}"] if count else []


def failures(rows: pl.LazyFrame) -> list[tuple[str, int, str]]:
    """Explainers that failed on pictures that could be read: each with how many samples that is, and a reason."""
    polars = require("polars", "eval")
    failed = rows.filter(polars.col("error").is_not_null() & polars.col("target").is_not_null())
    reasons = failed.group_by("explainer").agg(polars.col("sample").n_unique(), polars.col("error").min())
    return reasons.sort("explainer").collect(engine="streaming").rows()
