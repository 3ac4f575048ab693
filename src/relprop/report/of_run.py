"""A report of an evaluation run: scores beside controls, curves, pictures, and what was run."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from relprop.data import Dataset, Sample
from relprop.documents import read_object
from relprop.errors import ModelError, RelpropError, RunError
from relprop.evaluation.plan import Plan
from relprop.evaluation.store import SESSIONS, State, Store, look, manifest, open_run, summary_of
from relprop.evaluation.summary import is_control, label
from relprop.evaluation.tables import Line as Score
from relprop.evaluation.tables import Summary
from relprop.models import LoadedModel
from relprop.models.architectures import imports
from relprop.models.classes import Names, read_classes, require_count
from relprop.report.document import BarRow, Bars, Key, Plot, Report, Section
from relprop.report.of_comparisons import how_section, ledger_section, pictures_section, plain
from relprop.report.svg import Line, axis, dot, legend_line, line_chart, looks, nice_range
from relprop.sessions import Session

_BETTER = {True: "higher is better", False: "lower is better", None: ""}
_PROTOCOL_TEXT = (
    "Pixels are put in or taken out, most relevant first. How many at once, and in which order pixels of one value, "
    "decides the score as much as the map does. Controls (grey) look at neither picture nor network: what they score, "
    "the protocol gives away."
)


def report_of_run(
    root: Path,
    *,
    pictures: int = 4,
    device: str = "cpu",
    trust: bool = False,
    classes: Names | None = None,
) -> Report:
    """Make the report of a run directory, finished or not.

    Args:
        root: run directory of `relprop evaluate`.
        pictures: how many of its pictures to explain again and show; 0 needs neither the model nor the data.
        device: where to explain them.
        trust: whether to run code that the run's manifest leads to: a factory that it names, a `.pt2` file. What the
            manifest itself says of trust does not count, since a run folder may come from anybody.
        classes: names of the model's outputs, as `relprop.models.load_model` takes them; by default those that the
            model brings, or else the data set's, where there is one for each output.

    Raises:
        RunError: there is no run there, or it has no rows yet.
        UsageError: no names can be read from `classes`.
    """
    names = None if classes is None else read_classes(classes)
    store, document = open_run(root), manifest(root)
    state, plan = look(store), store.plan
    summary = summary_of(store, state=state)
    sections = [scores_section(summary)]
    if curves := curves_section(store, state):
        sections.append(curves)
    if pictures > 0:
        sections += _shown(plan, pictures, device, trust, names)
    notes = [*warnings_of(summary.lines), *map(plain, summary.notes), plain(summary.caption) + "."]
    sections += [Section("Read this before you quote a number", notes=tuple(notes)), _how(root, store, document)]
    title = f"{plain(plan.model.name)} on {plain(plan.data)}"
    sentence, metadata = _summary(summary, document), _metadata(plan, document)
    return Report(title, sentence, metadata, tuple(sections), left_out=summary.left_out)


def scores_section(summary: Summary) -> Section:
    """One chart for each protocol and metric."""
    made = []
    for (protocol, ties), lines in groupby(summary.lines, key=lambda line: (line.protocol, line.ties)):
        by_metric: dict[str, list[Score]] = {}
        for line in lines:
            by_metric.setdefault(line.metric, []).append(line)
        under = f"protocol {protocol}, ties {ties}" if protocol else "without masking"
        made += [_score_bars(metric, under, found) for metric, found in by_metric.items()]
    return Section("Scores", (_PROTOCOL_TEXT,), bars=tuple(made))


def curves_section(store: Store, state: State) -> Section | None:
    """Mean curves, one chart for each metric, protocol and post-processing; None if the run kept none."""
    if not store.plan.curves:
        return None
    found = _mean_curves(store, state)
    plots = []
    for (metric, protocol, ties, post), lines in found.items():
        named = "" if post == "none" else f", after {post}"
        caption = f"{metric.capitalize()} under protocol {protocol}, ties {ties}{named}: mean score of the class"
        chart = line_chart(lines, f"{caption}, one line a method.", "step", "mean score")
        keys = tuple(Key(line.label, legend_line(look)) for line, look in zip(lines, looks(lines), strict=True))
        plots.append(Plot(caption, chart, keys))
    return Section("Curves", plots=tuple(plots)) if plots else None


def _mean_curves(store: Store, state: State) -> dict[tuple[str, str, str, str], list[Line]]:
    """Average the curves of each explainer over the samples that have one, step by step."""
    import polars as pl

    key = ["metric", "protocol", "ties", "post", "explainer"]
    rows = store.rows(state.whole).filter(pl.col("curve").is_not_null())
    rows = rows.select(*key, pl.col("curve"), pl.int_ranges(0, pl.col("curve").list.len()).alias("step"))
    points = rows.explode("curve", "step").group_by(*key, "step").agg(pl.col("curve").mean()).sort("step")
    grouped = points.group_by(key, maintain_order=True).agg(pl.col("curve")).collect()
    curves = {tuple(row[name] for name in key): tuple(row["curve"]) for row in grouped.to_dicts()}
    order = {spec: at for at, spec in enumerate(sorted(store.plan.explainers, key=is_control))}
    made: dict[tuple[str, str, str, str], list[Line]] = {}
    for (*where, explainer), ys in sorted(curves.items(), key=lambda item: (item[0][:4], order[item[0][4]])):
        metric, protocol, ties, post = where
        made.setdefault((metric, protocol, ties, post), []).append(Line(explainer, ys, is_control(explainer)))
    return dict(sorted(made.items(), key=lambda item: (item[0][1], item[0][3], item[0][0] != "insertion")))


def _score_bars(metric: str, under: str, lines: Sequence[Score]) -> Bars:
    """One metric under one protocol: a dot a method, with its standard error."""
    values = [line.mean for line in lines if line.mean is not None]
    low, high, _ = nice_range(min([0.0, *values]), max([0.0, *values]))
    rows = []
    for line in lines:
        name = label(line.explainer, line.post)
        counts = str(line.n) + (f" ({line.failures} failed)" if line.failures else "")
        if line.mean is None:
            rows.append(BarRow(name, axis(low, high), ("no value", counts), True))
            continue
        quiet = is_control(line.explainer)
        error = f" ± {line.standard_error:.4f}" if line.standard_error is not None else ""
        drawn = dot(line.mean, line.standard_error, low, high, quiet=quiet)
        rows.append(BarRow(name + (" (control)" if quiet else ""), drawn, (f"{line.mean:.4f}{error}", counts), quiet))
    better = _BETTER[_direction(metric)]
    note = f"Axis from {low:g} to {high:g}; mean ± standard error over samples."
    heads = ("method", "", "mean", "n")
    return Bars(f"{metric}, {under}" + (f" ({better})" if better else ""), heads, tuple(rows), note)


def _direction(row: str) -> bool | None:
    """Whether a metric's row is better when higher; None if nobody says."""
    from relprop.metrics import METRICS

    name = row.split(":")[0]
    for metric in map(METRICS.get, METRICS):
        directions = getattr(metric, "higher_is_better", {})
        if name in directions:
            found: bool | None = directions[name]
            return found
    return None


def _shown(plan: Plan, count: int, device: str, trust: bool, names: Sequence[str] | None) -> list[Section]:
    """Explain some pictures of the run again, for the class explained; if model or data cannot be had, say why."""
    methods = [spec for spec in plan.explainers if not is_control(spec)]
    try:
        loaded, dataset, samples = opened(plan, device, trust, names)
        session, count = Session(loaded, device), min(count, len(samples))
        comparisons = [
            session.compare(
                sample.id, dataset.load(sample), methods, target=sample.label if plan.target == "label" else None
            )
            for sample in (samples[at * len(samples) // count] for at in range(count))  # at even distances
        ]
    except (RelpropError, OSError) as error:
        return [Section("Pictures", notes=(f"There are no pictures here: {error}.",))]
    ledgers = [(comparisons[0], name, result) for name, result in comparisons[0].results]
    return [pictures_section(comparisons), *([ledger_section(ledgers)] if ledgers else [])]


def opened(
    plan: Plan, device: str, trust: bool, names: Sequence[str] | None
) -> tuple[LoadedModel, Dataset, tuple[Sample, ...]]:
    """The model, the data set and the samples of a run; classes are called by `names`, the model's or the data's.

    Raises:
        ModelError: the run names code that would be imported, and is not trusted; or there are not as many names as
            the network has outputs.
    """
    from relprop.data import balanced, open_dataset
    from relprop.evaluation.setup import load

    dataset = open_dataset(plan.data)
    if not trust and (named := next(filter(imports, filter(None, (plan.model.arch, plan.model.name))), None)):
        raise ModelError(
            f"the run's manifest names the network {named!r}, which would be imported and run; if you trust where the "
            "run comes from, say so with trust=True (--trust)"
        )
    samples = balanced(dataset.samples, plan.samples, plan.seed)
    loaded = load(replace(plan.model, trust=trust), device)
    if names is not None:
        require_count(loaded.name, names, loaded.outputs())
        loaded = replace(loaded, classes=tuple(names))
    return loaded.named_by(dataset.classes), dataset, samples


def _summary(summary: Summary, document: dict[str, Any]) -> str:
    methods = len({(line.explainer, line.post) for line in summary.lines if not is_control(line.explainer)})
    left = next((f"; {part}" for part in summary.caption.split(", ") if part.startswith("NOT FINISHED")), "")
    return f"{methods} methods measured on {document.get('samples', '?')} samples{left}."


def _metadata(plan: Plan, document: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    step = "the protocol's own" if plan.step is None else f"{plan.step:g}"
    return (
        ("model", plain(plan.model.name) + (f" ({plan.model.arch})" if plan.model.arch else "")),
        ("data", plain(plan.data)),
        ("samples", f"{document.get('samples', '?')}, seed {plan.seed}"),
        ("explained", f"the {plan.target} class"),
        ("protocols", ", ".join(plan.protocols)),
        ("pixels a step", step),
        ("plan", plan.digest),
    )


FEW = 100
"""Below so many samples a difference between methods is easily one of the samples drawn."""


def warnings_of(lines: Sequence[Score]) -> list[str]:
    """Say where numbers rest on few samples, and where the best two methods lie within each other's standard errors."""
    counts = [line.n for line in lines if line.mean is not None]
    said = []
    if counts and min(counts) < FEW:
        said.append(
            f"The means are over as few as {min(counts)} samples. With fewer than {FEW}, the order of methods can be "
            "one of the samples drawn; explain more before you quote it."
        )
    close = []
    for (metric, protocol, ties), group in groupby(
        sorted(lines, key=lambda line: (line.metric, line.protocol, line.ties)),
        key=lambda line: (line.metric, line.protocol, line.ties),
    ):
        measured = [line for line in group if line.mean is not None and not is_control(line.explainer)]
        better = _direction(metric)
        if better is None or len(measured) < 2:
            continue
        best, second = sorted(measured, key=lambda line: line.mean or 0.0, reverse=better)[:2]
        apart = abs((best.mean or 0.0) - (second.mean or 0.0))
        if apart <= (best.standard_error or 0.0) + (second.standard_error or 0.0):
            names = f"{label(best.explainer, best.post)} and {label(second.explainer, second.post)}"
            under = f" under {protocol}, ties {ties}" if protocol else ""
            close.append(f"{metric}{under} ({names}, {apart:.4f} apart)")
    if close:
        said.append(
            f"Standard errors of the best two overlap: {'; '.join(close)}. They are measured on the same samples, so "
            "compare them pair by pair (`relprop summary RUN --versus METHOD`) before you call one better."
        )
    return said


def _how(root: Path, store: Store, document: dict[str, Any]) -> Section:
    given = (session.get("command") for session in _sessions(root))
    commands = list(dict.fromkeys(shlex.join(map(str, words)) for words in given if isinstance(words, list)))
    versions = {**_object(store.identity.get("versions")), **_object(document.get("libraries"))}
    versions = {name: str(text) for name, text in versions.items() if text != "absent"}
    machine = _object(document.get("machine"))
    system = ", ".join(str(machine[key]) for key in ("system", "device") if key in machine)
    versions |= {"Python": str(document.get("python", ""))}
    made = how_section([command for command in commands if command], versions, system)
    plan = ("plan", json.dumps(store.plan.to_json(), indent=2, ensure_ascii=False))
    return Section(made.title, code=(*made.code, plan), tables=made.tables)


def _object(found: Any) -> dict[str, Any]:
    """Return what a manifest says, if it is an object."""
    return found if isinstance(found, dict) else {}


def _sessions(root: Path) -> list[dict[str, Any]]:
    """Read who worked on the run; a file that cannot be read is left out."""
    found = []
    for path in sorted((root / SESSIONS).glob("*.json")):
        with contextlib.suppress(RunError):
            found.append(read_object(path, RunError))
    return found
