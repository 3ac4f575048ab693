"""A report of comparisons: pictures, maps side by side, and how far relevance is conserved."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Sequence

from relprop.core.result.relevance import Relevance
from relprop.errors import version_of
from relprop.report.conservation import ConservationTable
from relprop.report.document import BarRow, Bars, Report, Section, Table
from relprop.report.pictures import row_of
from relprop.report.svg import bar
from relprop.sessions import Comparison
from relprop.tables import number

LIBRARIES = ("relprop", "torch", "torchvision", "captum", "torchcam", "timm", "numpy", "pillow")

SCALE_TEXT = (
    "Maps of one picture share one colour scale, in shares of each map's total magnitude per pixel, since methods "
    "differ in unit. The scale ends at the 99.5th percentile of the first map; what lies beyond takes the "
    "colour of the end, and how much that is stands below the map. Black is zero."
)
LEDGER_TEXT = (
    "What each block received, from the output at the top to the image at the bottom. A leak is relevance lost "
    "where a rule must keep all of it; what a rule takes on purpose (bias, epsilon) is absorbed. Steps that pass "
    "relevance on as it is are left out."
)


def report_of_comparisons(comparisons: Sequence[Comparison], commands: Sequence[str] = ()) -> Report:
    """Make the report of some comparisons, at least one; `commands` are those that asked for them, as typed."""
    first = comparisons[0]
    metadata = {what: plain(text) for comparison in comparisons for what, text in comparison.facts}
    ledgers = [
        (comparison, name, result)
        for comparison in comparisons
        for name, result in comparison.results
        if result.ledger is not None
    ]
    sections = [
        pictures_section(comparisons),
        *([ledger_section(ledgers)] if ledgers else []),
        classes_section(comparisons),
    ]
    title = f"Why {first.class_name}?" if len(comparisons) == 1 else f"{len(comparisons)} explanations"
    return Report(
        title,
        _summary([result for _, _, result in ledgers]),
        tuple(metadata.items()),
        (*(section for section in sections if section), how_section(commands)),
    )


def pictures_section(comparisons: Sequence[Comparison]) -> Section:
    """Pictures and maps."""
    return Section("Pictures", (SCALE_TEXT,), rows=tuple(map(row_of, comparisons)))


def ledger_section(ledgers: Sequence[tuple[Comparison, str, Relevance]]) -> Section:
    """The conservation tables."""
    return Section("Conservation", (LEDGER_TEXT,), bars=tuple(_ledger_bars(*one) for one in ledgers), folds=True)


def classes_section(comparisons: Sequence[Comparison]) -> Section | None:
    """The most probable classes of each picture."""
    found = [comparison for comparison in comparisons if comparison.top]
    if not found:
        return None
    return Section("What the model says", bars=tuple(_class_bars(comparison) for comparison in found))


def how_section(commands: Sequence[str], versions: dict[str, str] | None = None, system: str = "") -> Section:
    """Commands, versions and the machine's kind."""
    known = versions or {name: found for name in LIBRARIES if (found := version_of(name))}
    rows = tuple({"Python": platform.python_version(), **known}.items())
    rows = (*rows, ("system", system or f"{platform.system()} {platform.machine()}"))
    code = tuple(("command" if len(commands) == 1 else f"command {at}", text) for at, text in enumerate(commands, 1))
    return Section("How this was made", code=code, tables=(Table("Versions", ("what", "version"), rows, names=2),))


def plain(text: str) -> str:
    """Leave folders out of a text, so that a report does not show where files are kept."""
    return re.sub(r"(?<![\w./])(?:[A-Za-z]:)?(?:[\\/][^\\/\s:]+)+[\\/]", "", text)


def _summary(results: Sequence[Relevance]) -> str:
    """The sum of one explanation and the two statements on it; of several, the statements on the worst of each."""
    if not results:
        return ""
    table = _table(results)
    said = f"{table.conservation.leak_text()}; {table.conservation.score_text}."
    if len(results) > 1:
        return f"Of {len(results)} explanations, the worst: {said}"
    return f"Relevance of {table.end:.6f} arrives at the pixels, of a score of {table.start:.6f}; {said}"


def _ledger_bars(comparison: Comparison, method: str, result: Relevance) -> Bars:
    """One ledger as a chart: a bar a block."""
    table = _table([result])
    rows = {name: row for name, row in table.rows.items() if row.leak or row.absorbed or "." in name}
    low, high = _axis([row.received for row in rows.values()] + [table.start, table.end])
    block, received, _, *rest = table.heads()
    shown = []
    for name, row in rows.items():
        amount, _, *more = table.cells(row)
        shown.append(BarRow(name, bar(row.received, low, high), (amount, *more)))
    shown.append(BarRow("the image", bar(table.end, low, high), (number(table.end), *[""] * len(rest))))
    said = table.conservation
    note = f"Started with {number(table.start)}; {number(table.end)} arrived at the image; {said.leak_text()}; "
    note += f"{said.score_text}. Bars run from zero to the relevance, on an axis from {low:.3g} to {high:.3g}."
    heads = (block, f"relevance {received}", "", *rest)
    return Bars(f"{comparison.name} ({comparison.class_name}), {method}", heads, tuple(shown), note)


def _table(results: Sequence[Relevance]) -> ConservationTable:
    table = ConservationTable(depth=2)
    for result in results:
        assert result.ledger is not None  # the caller has looked
        table.add(result.ledger)
    return table


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: zero and every finite value, so that bars of other sizes look different."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    return low, high if high > low else low + 1.0


def _class_bars(comparison: Comparison) -> Bars:
    rows = tuple(
        BarRow(name, bar(p, 0.0, 1.0, quiet=at != comparison.target), (f"{100 * p:.1f} %",))
        for at, name, p in comparison.top
    )
    return Bars(
        f"{comparison.name}: most probable classes", ("class", "probability", ""), rows, "Orange: the class explained."
    )
