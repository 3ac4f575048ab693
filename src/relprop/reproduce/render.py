"""Ways to write a table of the paper: text, Markdown, LaTeX, CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from relprop import tables
from relprop.reproduce.published import METRICS
from relprop.reproduce.table import PROTOCOLS, Entry, Table

HEADS = {"insertion": "Insertion", "deletion": "Deletion", "id": "ID"}


def text(table: Table) -> str:
    """Aligned columns, for terminals."""
    parts = [f"{table.published.title}, {_unit(table)}"]
    for protocol, entries in table.blocks.items():
        parts += [PROTOCOLS[protocol], tables.aligned(_heads(), _cells(table, entries), rules=_rules(entries))]
    return "\n\n".join([*parts, "\n".join([table.caption, *table.notes])]) + "\n"


def markdown(table: Table) -> str:
    """One table of Markdown for each protocol."""
    parts = [f"**{table.published.title}**, {_unit(table)}"]
    for protocol, entries in table.blocks.items():
        parts += [PROTOCOLS[protocol], tables.markdown(_heads(), _cells(table, entries))]
    return "\n\n".join([*parts, "\n".join([table.caption, *(f"- {note}" for note in table.notes)])]) + "\n"


def latex(table: Table) -> str:
    """One table for each protocol, with the package booktabs."""
    made = []
    groups = " & ".join(rf"\multicolumn{{3}}{{c}}{{{HEADS[metric]}}}" for metric in METRICS)
    above = (rf" & {groups} & & \\", r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}\cmidrule(lr){8-10}")
    heads = ["method", *["ours", "publ.", "diff."] * 3, "n", "failed"]
    for protocol, entries in table.blocks.items():
        caption = " ".join([f"{table.published.title}, {_unit(table)}. {PROTOCOLS[protocol]}.", table.caption])
        made.append(tables.latex(heads, _cells(table, entries), caption, above=above, rules=_rules(entries)))
    return "\n".join([*made, *(f"% {note}" for note in table.notes)]) + "\n"


def comma_separated(table: Table) -> str:
    """One line for each row, protocol and metric, in full precision and in the unit of the paper's table."""
    columns = ["ours", "spread", "published", "published_deviation", "difference", "n", "failures"]
    return tables.comma_separated(
        ["table", "protocol", "row", "control", "metric", "unit", *columns],
        (
            [table.name, protocol, entry.name, entry.printed is None, metric, _unit(table), *_exact(table, entry, at)]
            for protocol, entries in table.blocks.items()
            for entry in entries
            for at, metric in enumerate(METRICS)
        ),
    )


def _exact(table: Table, entry: Entry, at: int) -> list[float | None]:
    """Ours and theirs of one metric, and how many pictures have it."""
    scale, score, row = table.published.scale, entry.ours[at], entry.printed
    ours = [None if value is None else scale * value for value in (score.mean, score.spread)]
    deviation = None if row is None or row.deviations is None else row.deviations[at]
    theirs = [None if row is None else row.values[at], deviation, entry.difference(at, scale)]
    return [*ours, *theirs, entry.n, entry.failures]


FORMATS: Mapping[str, Callable[[Table], str]] = {"txt": text, "md": markdown, "tex": latex, "csv": comma_separated}
"""By the suffix of the file."""


def _unit(table: Table) -> str:
    return "percent" if table.published.percent else "fraction"


def _heads() -> list[str]:
    return ["method", *(head for metric in METRICS for head in (HEADS[metric], "publ.", "diff.")), "n", "failed"]


def _cells(table: Table, entries: Sequence[Entry]) -> list[list[str]]:
    digits, rows = 1 if table.published.percent else 3, []
    for entry in entries:
        cells = [entry.name]
        for at in range(len(METRICS)):
            ours, spread, theirs, deviation, difference, *_ = _exact(table, entry, at)
            cells.append(tables.with_error(ours, spread, digits))
            cells.append("" if theirs is None else tables.with_error(theirs, deviation, digits))
            cells.append("" if difference is None else f"{difference:+.{digits}f}")
        rows.append([*cells, str(entry.n), str(entry.failures)])
    return rows


def _rules(entries: Sequence[Entry]) -> list[int]:
    """The rows below which a line is drawn: between the paper's rows and those that it does not have."""
    return [at for at, (row, after) in enumerate(pairwise(entries)) if row.printed and not after.printed]
