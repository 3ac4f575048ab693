"""Ways to write a summary: text, Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from relprop.registry import Registry

if TYPE_CHECKING:
    from relprop.evaluation.summary import Line, Summary

FORMATS: Registry[str] = Registry("table format")

Write = Callable[[Sequence[str], list[list[str]]], str]
"""(heads, cells) -> a table."""


@FORMATS.register("text")
def text(summary: Summary) -> str:
    """Aligned columns, for terminals."""
    tables = [f"{title}\n\n{_aligned(*_grid(lines, summary.versus))}" for title, lines in _groups(summary)]
    return "\n\n".join([*tables, _foot(summary)]) + "\n"


@FORMATS.register("markdown")
def markdown(summary: Summary) -> str:
    """Tables of Markdown, one for each protocol."""
    tables = [f"**{title}**\n\n{_piped(*_grid(lines, summary.versus))}" for title, lines in _groups(summary)]
    return "\n\n".join([*tables, _foot(summary)]) + "\n"


@FORMATS.register("csv")
def comma_separated(summary: Summary) -> str:
    """One line for each explainer, post-processing and metric, in full precision."""
    names = ["explainer", "post", "metric", "protocol", "ties", "mean", "standard_error", "n", "failures"]
    names += ["difference", "difference_error", "pairs"] if summary.versus is not None else []
    made = io.StringIO()
    table = csv.writer(made, lineterminator="\n")
    table.writerow(names)
    table.writerows([_exact(getattr(line, name)) for name in names] for line in summary.lines)
    return made.getvalue()


@FORMATS.register("latex")
def latex(summary: Summary) -> str:
    """Tables for LaTeX, with the package booktabs."""
    made = []
    for title, lines in _groups(summary):
        heads, cells = _grid(lines, summary.versus)
        body = [" & ".join(map(_escaped, row)) + r" \\" for row in (heads, *cells)]
        columns = "ll" + "r" * (len(heads) - 2)
        caption = _escaped(". ".join([title, summary.caption, *summary.notes]))
        made += [r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        made += [body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(made)


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
        values = [_mean(found.get(metric)) for metric in metrics]
        values += [_difference(found.get(metric)) for metric in metrics] if against else []
        counts = [_range([line.n for line in there]), _range([line.failures for line in there])]
        cells.append([explainer, post, *values, *counts])
    return ["explainer", "post", *metrics, *against, "n", "failures"], cells


def _mean(line: Line | None) -> str:
    return "" if line is None else _with_error(line.mean, line.standard_error)


def _difference(line: Line | None) -> str:
    return "" if line is None else _with_error(line.difference, line.difference_error, "+")


def _with_error(value: float | None, error: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.4f}" + ("" if error is None else f" ± {error:.4f}")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _foot(summary: Summary) -> str:
    said = [f"Mean ± standard error over samples; {summary.caption}.", *summary.notes]
    if summary.versus is not None:
        said.insert(1, f"Differences to {summary.versus} are paired: sample by sample, where both have a value.")
    return "\n".join(said)


def _aligned(heads: Sequence[str], cells: list[list[str]]) -> str:
    """Names to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in (heads, *cells)) for at in range(len(heads))]
    rows = [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *cells)
    ]
    return "\n".join([rows[0], "-" * max(map(len, rows)), *rows[1:]])


def _piped(heads: Sequence[str], cells: list[list[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(heads) - 2)]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (heads, rule, *cells)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _exact(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _escaped(cell: str) -> str:
    for mark in "&%$#_{}":
        cell = cell.replace(mark, f"\\{mark}")
    return cell.replace("±", r"$\pm$").replace("~", r"\textasciitilde{}")
