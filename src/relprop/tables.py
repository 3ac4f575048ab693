"""Tables of cells as text, Markdown, CSV and LaTeX: the first columns are names, the others numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence


def aligned(heads: Sequence[str], cells: Sequence[Sequence[str]], names: int = 1, rules: Collection[int] = ()) -> str:
    """Aligned columns, for terminals: names to the left, numbers to the right.

    Args:
        heads: of the columns.
        cells: row by row.
        names: how many of the columns hold names.
        rules: the rows below which a line is drawn.
    """
    widths = [max(len(row[at]) for row in (heads, *cells)) for at in range(len(heads))]
    rows = [
        "  ".join(
            cell.ljust(width) if at < names else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *cells)
    ]
    line = "-" * max(map(len, rows))
    made = [rows[0], line]
    for at, row in enumerate(rows[1:]):
        made += [row, line] if at in rules else [row]
    return "\n".join(made)


def markdown(heads: Sequence[str], cells: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table of Markdown."""
    rule = ["---"] * names + ["---:"] * (len(heads) - names)
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (heads, rule, *cells)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def latex(
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    caption: str,
    names: int = 1,
    above: Sequence[str] = (),
    rules: Collection[int] = (),
) -> str:
    """A table for LaTeX, with the package booktabs; arguments as in `aligned`; `above` are lines before the heads."""
    rows = [" & ".join(map(escaped, row)) + r" \\" for row in (heads, *cells)]
    made = [r"\begin{table}", rf"\caption{{{escaped(caption)}}}"]
    made += [rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(heads) - names)}}}", r"\toprule", *above]
    made += [rows[0], r"\midrule"]
    for at, row in enumerate(rows[1:]):
        made += [row, r"\midrule"] if at in rules else [row]
    return "\n".join([*made, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def comma_separated(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV in full precision; None is an empty cell."""
    made = io.StringIO()
    lines = csv.writer(made, lineterminator="\n")
    lines.writerow(heads)
    lines.writerows([repr(cell) if isinstance(cell, float) else cell for cell in row] for row in rows)
    return made.getvalue()


def number(value: float) -> str:
    """A sum of relevance: six decimals, or in powers of ten where it has run away."""
    return f"{value:.6f}" if abs(value) < 1e6 else f"{value:.3e}"


def with_error(value: float | None, error: float | None, digits: int, sign: str = "") -> str:
    """A number with its standard error: "0.1234 ± 0.0056"; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:{sign}.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def escaped(text: str) -> str:
    """A text as LaTeX wants it."""
    for mark in "&%$#_{}":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("±", r"$\pm$").replace("~", r"\textasciitilde{}")
