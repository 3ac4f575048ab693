"""A table of the paper with our numbers in it: what was published, what we measured, and the difference."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relprop.data import balanced, open_dataset
from relprop.evaluation import Plan, summarise
from relprop.evaluation.summary import failures, scored
from relprop.reproduce.cost import Network, look
from relprop.reproduce.maps import CONTROLS, FAIR, RELEASED, TABLE3_NOTE, TABLES, Map
from relprop.reproduce.published import METRICS, Against, Printed, Published, published

if TYPE_CHECKING:
    import polars as pl

    from relprop.evaluation import Line, ModelSpec
    from relprop.evaluation.store import Store
    from relprop.evaluation.tables import Summary
    from relprop.reproduce.setting import Setting

Execute = Callable[[Plan, Path, str], "Store"]
"""(plan, run directory, what is measured) -> the finished run."""

PROTOCOLS = {RELEASED: "Released protocol: tied pixels change together", FAIR: "Fair protocol: exact counts of pixels"}


@dataclass(frozen=True)
class Score:
    """A measured number, as a fraction."""

    mean: float | None  # over pictures, and over runs where there are several; None if there is none
    # standard error over the pictures of one run, standard deviation over several; None if unknown
    spread: float | None


@dataclass(frozen=True)
class Entry:
    """One row of a table under one protocol."""

    name: str  # of the row
    ours: tuple[Score, Score, Score]  # insertion, deletion and ID
    printed: Printed | None  # the published row; None for a control
    n: int  # pictures measured, the fewest of a run
    failures: int  # pictures without a value, the most of a run

    def difference(self, at: int, scale: float) -> float | None:
        """Return ours less the published value number `at`, in the table's unit."""
        mean = self.ours[at].mean
        return None if mean is None or self.printed is None else scale * mean - self.printed.values[at]


@dataclass(frozen=True)
class Table:
    """A table of the paper, repeated."""

    name: str  # "table1", ...
    published: Published  # the paper's
    blocks: Mapping[str, tuple[Entry, ...]]  # rows by protocol
    caption: str  # what was measured on what, published and ours
    notes: tuple[str, ...]  # what a reader must know besides
    unread: int = 0  # pictures that could not be read


@dataclass(frozen=True)
class Job:
    """A plan, and the rows that it measures."""

    what: str  # is measured, for progress
    plan: Plan  # of one model and one choice of pictures
    rows: tuple[Map, ...]  # of the table


def jobs_of(maps: Sequence[Map], setting: Setting) -> list[Job]:
    """Cut a table into plans: all rows of the paper and the controls in one for each model, every other row in its own.

    So one model is loaded once, an attribution that two protocols read differently is made once, and a row that the
    paper does not have costs no other.
    """
    ours = [row for row in maps if row.key is None and any(spec not in CONTROLS for spec, _ in row.specs.values())]
    groups = [tuple(row for row in maps if row not in ours), *((row,) for row in ours)]
    return [
        Job(", ".join(row.name for row in rows) if len(rows) == 1 else "the paper's rows and controls", plan, rows)
        for rows in groups
        if rows
        for plan in (_plan(setting, model, seed, rows) for model, seed in setting.runs())
    ]


def make_table(
    name: str,
    setting: Setting,
    out: Path,
    execute: Execute,
    against: Against = "imagenet",
    announce: Callable[[Sequence[Job], Network], None] = lambda jobs, network: None,
) -> Table:
    """Measure every row of a table, or what is left of it, and put the published numbers beside.

    Each plan has a run directory of its own, `out/runs/DIGEST`. `announce` is called with what will be measured, and on
    what network, before anything is.

    Raises:
        UsageError: fewer pictures than asked for, before a model is loaded.
    """
    paper = published(name, against)
    maps = TABLES[name](setting, against)
    jobs = jobs_of(maps, setting)
    pictures = open_dataset(setting.data).samples
    for seed in setting.seeds:
        balanced(pictures, setting.samples, seed)
    networks = [look(setting, at) for at in range(len(setting.models))]
    announce(jobs, networks[0])
    done = [
        (job, execute(job.plan, out / "runs" / job.plan.digest, f"{at}/{len(jobs)} {job.what}"))
        for at, job in enumerate(jobs, 1)
    ]
    rows = [store.rows() for _, store in done]  # once: it verifies every shard
    measured = [(job, summarise(found, job.plan)) for (job, _), found in zip(done, rows, strict=True)]
    blocks = {
        where: tuple(_entry(row, where, paper, [found for job, found in measured if row in job.rows]) for row in maps)
        for where in PROTOCOLS
    }
    unread = max((found.unread for _, found in measured), default=0)
    notes = [TABLE3_NOTE] if name == "table3" else []
    notes += _notes(rows, paper, setting, against, unread, networks)
    return Table(name, paper, blocks, _caption(paper, setting), tuple(notes), unread)


def _plan(setting: Setting, model: ModelSpec, seed: int, rows: Sequence[Map]) -> Plan:
    """Plan of the maps of some rows, each under the protocols that read it."""
    maps = dict.fromkeys((where, *spec) for row in rows for where, spec in row.specs.items())
    return Plan(
        model=model,
        data=setting.data,
        explainers=tuple(dict.fromkeys(explainer for _, explainer, _ in maps)),
        post=tuple(dict.fromkeys(post for _, _, post in maps)),
        protocols=tuple(PROTOCOLS),
        step=setting.step,
        samples=setting.samples,
        seed=seed,
        batch=setting.batch,
        device=setting.device.split(":")[0],
        amp=setting.amp,
        only=tuple(" ".join(one) for one in maps),
    )


def _entry(row: Map, where: str, paper: Published, summaries: Sequence[Summary]) -> Entry:
    runs = [summary.lines for summary in summaries]
    lines = [
        [line for line in run if (line.protocol, line.explainer, line.post) == (where, *row.specs[where])]
        for run in runs
    ]
    by_metric = [[next(line for line in run if line.metric == metric) for run in lines] for metric in METRICS]
    insertion, deletion, both = map(pooled, by_metric)
    counted = [line for run in lines for line in run]
    return Entry(
        row.name,
        (insertion, deletion, both),
        None if row.key is None else paper.row(row.key),
        min(line.n for line in counted),
        max(line.failures for line in counted),
    )


def pooled(lines: Sequence[Line]) -> Score:
    """Mean and standard error of one run; of several the mean of their means, and its standard deviation (n - 1)."""
    means = [line.mean for line in lines if line.mean is not None]
    if len(means) < len(lines) or not means:
        return Score(None, None)
    if len(means) == 1:
        return Score(means[0], lines[0].standard_error)
    return Score(statistics.fmean(means), statistics.stdev(means))


def _caption(paper: Published, setting: Setting) -> str:
    """Say on what both were measured, and plainly where that differs."""
    runs = list(setting.runs())
    theirs = f"{paper.network} on {paper.data}, {paper.samples:,} pictures"
    theirs += f", {paper.models} models" if paper.models > 1 else ""
    ours = f"{setting.model_names} on {setting.data_name}, {setting.samples:,} pictures"
    ours += f", {len(runs)} runs" if len(runs) > 1 else ""
    ours += "".join(f", {part}" for part in scored(setting.step, setting.amp))
    ours += ", rules as released" if setting.composite == "released" else ""
    return f"Published: {theirs} (arXiv 2407.09115). Ours: {ours}."


def _notes(
    rows: Sequence[pl.LazyFrame],
    paper: Published,
    setting: Setting,
    against: Against,
    unread: int,
    networks: Sequence[Network],
) -> list[str]:
    several = len(list(setting.runs())) > 1
    notes = [f"± is the standard {'deviation over runs' if several else 'error over pictures'}."]
    if other := _others(paper, setting, against, networks):
        notes.append(f"Ours is not the paper's setting: {', '.join(other)}. A difference is no verdict on either.")
    notes.append(
        "The published numbers were measured under the released protocol, which rewards tied pixels: read them beside "
        "the controls, which look at no network, and beside the fair protocol."
    )
    notes += [f"{unread} pictures could not be read."] if unread else []
    failed = {spec.partition(":")[0]: (count, why) for frame in rows for spec, count, why in failures(frame)}
    return notes + [f"{name} failed on {count} pictures, for example: {why}" for name, (count, why) in failed.items()]


def _others(paper: Published, setting: Setting, against: Against, networks: Sequence[Network]) -> list[str]:
    """Say in what our setting is another than the paper's."""
    names = {model.name for model, _ in setting.runs()}
    found = {
        "another network": not all(network.resnet50 for network in networks),
        "other pictures": setting.kind != against,
        f"{setting.samples:,} pictures for {paper.samples:,}": setting.samples != paper.samples,
        f"{len(names)} model(s) for {paper.models}": len(names) != paper.models,
        "other steps": setting.step is not None,
    }
    return [what for what, differs in found.items() if differs]
