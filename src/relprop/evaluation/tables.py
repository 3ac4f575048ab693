"""A table of means, and the ways to write it: text, Markdown, CSV, LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby

from relprop import tables
from relprop.registry import Registry

FORMATS: Registry[str] = Registry("table format")


@dataclass(frozen=True)
class Line:
    """What one explainer scores on one metric.

    Attributes:
        explainer: spec.
        post: spec of the post-processing.
        metric: name of the value.
        protocol: spec of the masking protocol, or "".
        ties: how that orders pixels of one value, or "".
        mean: over the samples that have a value; None if none has.
        standard_error: of the mean: s / sqrt(n), s with n - 1; None for fewer than two.
        n: samples that have a value.
        failures: samples that have none.
        difference: mean of this value minus the reference's, over the samples where both have one.
        difference_error: standard error of that mean.
        pairs: how many samples that is.
    """

    explainer: str
    post: str
    metric: str
    protocol: str
    ties: str
    mean: float | None
    standard_error: float | None
    n: int
    failures: int
    difference: float | None = None
    difference_error: float | None = None
    pairs: int | None = None


@dataclass(frozen=True)
class Summary:
    """A table, and what must be said of it.

    Attributes:
        lines: in the order of the plan, controls last.
        caption: what was run, under which protocol.
        notes: what a reader must know: missing controls, missing samples, why something failed.
        versus: what the differences are against; None if there are none.
        unread: pictures that could not be read.
        left_out: files of a run whose rows are not averaged, since they are not what they claim to be.
    """

    lines: tuple[Line, ...]
    caption: str
    notes: tuple[str, ...]
    versus: str | None = None
    unread: int = 0
    left_out: tuple[str, ...] = ()

    def format(self, kind: str) -> str:
        """Write the table as `text`, `markdown`, `csv` or `latex`."""
        return FORMATS.get(kind)(self)

    def __str__(self) -> str:
        return self.format("text")


@FORMATS.register("text")
def text(summary: Summary) -> str:
    """Aligned columns, for terminals."""
    made = [f"{title}\n\n{tables.aligned(*_grid(lines, summary.versus), names=2)}" for title, lines in _groups(summary)]
    return "\n\n".join([*made, _foot(summary)]) + "\n"


@FORMATS.register("markdown")
def markdown(summary: Summary) -> str:
    """Tables of Markdown, one for each protocol."""
    made = [
        f"**{title}**\n\n{tables.markdown(*_grid(lines, summary.versus), names=2)}" for title, lines in _groups(summary)
    ]
    return "\n\n".join([*made, _foot(summary)]) + "\n"


@FORMATS.register("csv")
def comma_separated(summary: Summary) -> str:
    """One line for each explainer, post-processing and metric, in full precision."""
    names = [field.name for field in fields(Line)]
    names = names if summary.versus is not None else names[: names.index("difference")]
    return tables.comma_separated(names, ([getattr(line, name) for name in names] for line in summary.lines))


@FORMATS.register("latex")
def latex(summary: Summary) -> str:
    """Tables for LaTeX, with the package booktabs."""
    return "\n".join(
        tables.latex(*_grid(lines, summary.versus), ". ".join([title, summary.caption, *summary.notes]), names=2)
        for title, lines in _groups(summary)
    )


def _groups(summary: Summary) -> list[tuple[str, list[Line]]]:
    """One table for each protocol; what masks nothing has one of its own."""
    groups = groupby(summary.lines, key=lambda line: (line.protocol, line.ties))
    return [
        (f"Protocol {protocol}, ties {ties}" if protocol else "Without masking", list(lines))
        for (protocol, ties), lines in groups
    ]


def _grid(lines: Sequence[Line], versus: str | None) -> tuple[list[str], list[list[str]]]:
    """One row for each explainer and post-processing, one column for each metric."""
    metrics = list(dict.fromkeys(line.metric for line in lines))
    rows: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        rows.setdefault((line.explainer, line.post), {})[line.metric] = line
    against = [f"{metric} - {versus}" for metric in metrics] if versus is not None else []
    cells = []
    for (explainer, post), found in rows.items():
        there = [found[metric] for metric in metrics if metric in found]
        values = [_cell(found.get(metric), "mean", "standard_error") for metric in metrics]
        if against:
            values += [_cell(found.get(metric), "difference", "difference_error", "+") for metric in metrics]
        counts = [_range([line.n for line in there]), _range([line.failures for line in there])]
        cells.append([explainer, post, *values, *counts])
    return ["explainer", "post", *metrics, *against, "n", "failures"], cells


def _cell(line: Line | None, value: str, error: str, sign: str = "") -> str:
    return "" if line is None else tables.with_error(getattr(line, value), getattr(line, error), 4, sign)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _foot(summary: Summary) -> str:
    said = [f"Mean ± standard error over samples; {summary.caption}.", *summary.notes]
    if summary.versus is not None:
        said.insert(1, f"Differences to {summary.versus} are paired: sample by sample, where both have a value.")
    return "\n".join(said)
