"""Ways to write a table of the paper: text, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from relprop.reproduce.published import METRICS
from relprop.reproduce.table import PROTOCOLS

if TYPE_CHECKING:
    from relprop.reproduce.table import Entry, Table

HEADS = {"insertion": "Insertion", "deletion": "Deletion", "id": "ID"}


def text(table: Table) -> str:
    """Aligned columns, for terminals."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    made = io.StringIO()
    console = Console(file=made, width=160, highlight=False, color_system=None)
    console.print(f"{table.published.title}, {_unit(table)}\n", markup=False)
    for protocol, entries in table.blocks.items():
        grid = Grid(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", title_style="")
        grid.title = PROTOCOLS[protocol]
        for at, head in enumerate(_heads()):
            grid.add_column(head, justify="left" if at == 0 else "right", no_wrap=True)
        for entry, follows in _with_rules(entries):
            grid.add_row(*map(Text, _cells(table, entry)), end_section=follows)
        console.print(grid)
    console.print(f"{table.caption}\n" + "\n".join(table.notes), markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in made.getvalue().splitlines()) + "\n"


def markdown(table: Table) -> str:
    """One table of Markdown for each protocol."""
    parts = [f"**{table.published.title}**, {_unit(table)}"]
    for protocol, entries in table.blocks.items():
        rows = [_heads(), ["---", *["---:"] * (len(_heads()) - 1)], *(_cells(table, entry) for entry in entries)]
        body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
        parts += [PROTOCOLS[protocol], body]
    return "\n\n".join([*parts, table.caption, *(f"- {note}" for note in table.notes)]).replace("\n\n- ", "\n- ") + "\n"


def latex(table: Table) -> str:
    """One table for each protocol, with the package booktabs."""
    made = []
    for protocol, entries in table.blocks.items():
        caption = " ".join([f"{table.published.title}, {_unit(table)}. {PROTOCOLS[protocol]}.", table.caption])
        groups = " & ".join(rf"\multicolumn{{3}}{{c}}{{{HEADS[metric]}}}" for metric in METRICS)
        made += [r"\begin{table}", rf"\caption{{{_escaped(caption)}}}", r"\begin{tabular}{lrrrrrrrrrrr}", r"\toprule"]
        made += [rf" & {groups} & & \\", r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}\cmidrule(lr){8-10}"]
        made += ["method" + " & ours & publ. & diff." * 3 + r" & n & failed \\", r"\midrule"]
        for entry, follows in _with_rules(entries):
            made.append(" & ".join(map(_escaped, _cells(table, entry))) + r" \\")
            made += [r"\midrule"] if follows else []
        made += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join([*made, *(f"% {note}" for note in table.notes)]) + "\n"


def comma_separated(table: Table) -> str:
    """One line for each row, protocol and metric, in full precision and in the unit of the paper's table."""
    made = io.StringIO()
    lines = csv.writer(made, lineterminator="\n")
    columns = ["ours", "spread", "published", "published_deviation", "difference", "n", "failures"]
    lines.writerow(["table", "protocol", "row", "control", "metric", "unit", *columns])
    scale = table.published.scale
    for protocol, entries in table.blocks.items():
        for entry in entries:
            for at, metric in enumerate(METRICS):
                score, row = entry.ours[at], entry.printed
                values = [None if value is None else scale * value for value in (score.mean, score.spread)]
                values += [None if row is None else row.values[at]]
                values += [None if row is None or row.deviations is None else row.deviations[at]]
                values += [entry.difference(at, scale)]
                cells = ["" if value is None else repr(value) for value in values]
                keys = [table.name, protocol, entry.name, row is None, metric, _unit(table)]
                lines.writerow([*keys, *cells, entry.n, entry.failures])
    return made.getvalue()


FORMATS: Mapping[str, Callable[[Table], str]] = {"txt": text, "md": markdown, "tex": latex, "csv": comma_separated}
"""By the suffix of the file."""


def _unit(table: Table) -> str:
    return "percent" if table.published.percent else "fraction"


def _heads() -> list[str]:
    return ["method", *(head for metric in METRICS for head in (HEADS[metric], "publ.", "diff.")), "n", "failed"]


def _cells(table: Table, entry: Entry) -> list[str]:
    digits, scale = (1, 100.0) if table.published.percent else (3, 1.0)
    cells = [entry.name]
    for at in range(len(METRICS)):
        score, row = entry.ours[at], entry.printed
        cells.append(_number(score.mean, score.spread, scale, digits))
        deviation = None if row is None or row.deviations is None else row.deviations[at]
        cells.append("" if row is None else _number(row.values[at], deviation, 1.0, digits))
        difference = entry.difference(at, scale)
        cells.append("" if difference is None else f"{difference:+.{digits}f}")
    return [*cells, str(entry.n), str(entry.failures)]


def _number(value: float | None, spread: float | None, scale: float, digits: int) -> str:
    if value is None:
        return "-"
    return f"{scale * value:.{digits}f}" + ("" if spread is None else f" ± {scale * spread:.{digits}f}")


def _with_rules(entries: tuple[Entry, ...]) -> list[tuple[Entry, bool]]:
    """Pair each row with whether a rule follows it: between the paper's rows and the controls."""
    after = [*entries[1:], None]
    return [
        (entry, next is not None and next.printed is None and entry.printed is not None)
        for entry, next in zip(entries, after, strict=True)
    ]


def _escaped(cell: str) -> str:
    for mark in "&%$#_{}":
        cell = cell.replace(mark, f"\\{mark}")
    return cell.replace("±", r"$\pm$").replace("~", r"\textasciitilde{}")
