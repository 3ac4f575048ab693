"""A table of the paper with our numbers in it: what was published, what we measured, and the difference."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relprop.errors import require
from relprop.evaluation import Plan, summarise
from relprop.reproduce import table1, table2, table3
from relprop.reproduce.maps import FAIR, RELEASED, Map
from relprop.reproduce.published import METRICS, Against, Printed, Published, published

if TYPE_CHECKING:
    from relprop.evaluation import Line, ModelSpec
    from relprop.evaluation.store import Store
    from relprop.reproduce.setting import Setting

Carry = Callable[[Plan, Path, str], "Store"]
"""(plan, run directory, what is measured) -> the finished run."""

MAPS: Mapping[str, Callable[[Setting, Against], tuple[Map, ...]]] = {
    "table1": table1.maps,
    "table2": table2.maps,
    "table3": table3.maps,
}
PROTOCOLS = {RELEASED: "Released protocol: tied pixels change together", FAIR: "Fair protocol: exact counts of pixels"}


@dataclass(frozen=True)
class Score:
    """A measured number, as a fraction.

    Attributes:
        mean: over pictures, and over runs where there are several; None if there is none.
        spread: standard error over the pictures of one run, standard deviation over several; None if unknown.
    """

    mean: float | None
    spread: float | None


@dataclass(frozen=True)
class Entry:
    """One row of a table under one protocol.

    Attributes:
        name: of the row.
        ours: insertion, deletion and ID.
        printed: the published row; None for a control.
        n: pictures measured, the fewest of a run.
        failures: pictures without a value, the most of a run.
    """

    name: str
    ours: tuple[Score, Score, Score]
    printed: Printed | None
    n: int
    failures: int

    def difference(self, at: int, scale: float) -> float | None:
        """Return ours less the published value number `at`, in the table's unit."""
        mean = self.ours[at].mean
        return None if mean is None or self.printed is None else scale * mean - self.printed.values[at]


@dataclass(frozen=True)
class Table:
    """A table of the paper, repeated.

    Attributes:
        name: "table1", ...
        published: the paper's.
        blocks: rows by protocol.
        caption: what was measured on what, published and ours.
        notes: what a reader must know besides.
        unread: pictures that could not be read.
    """

    name: str
    published: Published
    blocks: Mapping[str, tuple[Entry, ...]]
    caption: str
    notes: tuple[str, ...]
    unread: int = 0


def make_table(name: str, setting: Setting, out: Path, carry: Carry, against: Against = "imagenet") -> Table:
    """Measure every row of a table, or what is left of it, and put the published numbers beside.

    Each map has a run directory of its own, `out/runs/DIGEST`, so that tables share what they have in common, and a
    row more or less costs no other.

    Args:
        name: a key of `MAPS`.
        setting: on what.
        out: folder of the run directories.
        carry: how a plan is carried out.
        against: which of the paper's data sets to compare with.
    """
    paper = published(name, against)
    maps = MAPS[name](setting, against)
    jobs = [(row.name, plan) for row in maps for plan in _plans(row, setting)]
    stores: dict[str, Store] = {}
    for at, (what, plan) in enumerate(jobs, start=1):
        if plan.digest not in stores:
            stores[plan.digest] = carry(plan, out / "runs" / plan.digest, f"{at}/{len(jobs)} {what}")
    blocks = {
        where: tuple(_entry(row, where, paper, [stores[p.digest] for p in _plans(row, setting, where)]) for row in maps)
        for where in PROTOCOLS
    }
    unread = max((summarise(store.rows(), store.plan).unread for store in stores.values()), default=0)
    notes = _notes(list(stores.values()), paper, setting, against, unread)
    return Table(name, paper, blocks, _caption(paper, setting), tuple(notes), unread)


def _plans(row: Map, setting: Setting, where: str | None = None) -> Iterator[Plan]:
    """Plans of a row: one for each map and run, under the protocols that read that map (or under `where` alone)."""
    for explainer, post in dict.fromkeys(row.specs.values()):
        protocols = tuple(name for name, spec in row.specs.items() if spec == (explainer, post))
        if where is None or where in protocols:
            for model, seed in setting.runs():
                yield _plan(setting, model, seed, explainer, post, protocols)


def _plan(setting: Setting, model: ModelSpec, seed: int, explainer: str, post: str, protocols: tuple[str, ...]) -> Plan:
    return Plan(
        model=model,
        data=setting.data,
        explainers=(explainer,),
        post=(post,),
        protocols=protocols,
        step=setting.step,
        samples=setting.samples,
        seed=seed,
        batch=setting.batch,
        device=setting.device.split(":")[0],
        amp=setting.amp,
    )


def _entry(row: Map, where: str, paper: Published, stores: Sequence[Store]) -> Entry:
    runs = [summarise(store.rows(), store.plan).lines for store in stores]
    lines = [[line for line in run if line.protocol == where] for run in runs]
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
    ours += f", {setting.step:g} pixels a step" if setting.step is not None and setting.step >= 1 else ""
    ours += f", {setting.step:g} of the pixels a step" if setting.step is not None and setting.step < 1 else ""
    ours += ", masked pictures scored in bfloat16" if setting.amp else ""
    ours += ", rules as released" if setting.composite == "released" else ""
    return f"Published: {theirs} (arXiv 2407.09115). Ours: {ours}."


def _notes(stores: Sequence[Store], paper: Published, setting: Setting, against: Against, unread: int) -> list[str]:
    several = len(list(setting.runs())) > 1
    notes = [f"± is the standard {'deviation over runs' if several else 'error over pictures'}."]
    if other := _others(paper, setting, against):
        notes.append(f"Ours is not the paper's setting: {', '.join(other)}. A difference is no verdict on either.")
    notes.append(
        "The published numbers were measured under the released protocol, which rewards tied pixels: read them beside "
        "the controls, which look at no network, and beside the fair protocol."
    )
    notes += [f"{unread} pictures could not be read."] if unread else []
    return notes + _failures(stores)


def _others(paper: Published, setting: Setting, against: Against) -> list[str]:
    """Say in what our setting is another than the paper's."""
    names = {model.name for model, _ in setting.runs()}
    found = {
        "another network": against == "imagenet" and names != {"resnet50"},
        "other pictures": setting.kind != against,
        f"{setting.samples:,} pictures for {paper.samples:,}": setting.samples != paper.samples,
        f"{len(names)} model(s) for {paper.models}": len(names) != paper.models,
        "other steps": setting.step is not None,
    }
    return [what for what, differs in found.items() if differs]


def _failures(stores: Sequence[Store]) -> list[str]:
    """Say for each explainer on how many pictures it failed, and quote a reason."""
    polars = require("polars", "eval")
    found: dict[str, str] = {}
    for store in stores:
        rows = store.rows().filter(polars.col("error").is_not_null() & polars.col("target").is_not_null())
        count, reason = rows.select(polars.col("sample").n_unique(), polars.col("error").first()).collect().row(0)
        name = store.plan.explainers[0].partition(":")[0]
        if count:
            found[name] = f"{name} failed on {count} pictures, for example: {reason}"
    return list(found.values())
