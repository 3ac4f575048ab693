"""A report of studies: pictures, maps side by side, and how far relevance is conserved."""

from __future__ import annotations

import math
import platform
import re
from importlib import metadata
from typing import TYPE_CHECKING

from relprop.report.book import Book
from relprop.report.document import BarRow, Bars, Report, Section, Table
from relprop.report.pictures import strip_of
from relprop.report.svg import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relprop.core.result.relevance import Relevance
    from relprop.sessions import Study

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


def report_of_studies(studies: Sequence[Study], commands: Sequence[str] = (), title: str = "") -> Report:
    """Make the report of some studies.

    Args:
        studies: at least one.
        commands: how they were asked for, as typed.
        title: large; by default what was explained.
    """
    first = studies[0]
    facts = {what: plain(text) for study in studies for what, text in study.facts}
    books = [(study, name, result) for study in studies for name, result in study.books if result.ledger is not None]
    sections = [pictures_section(studies), *([ledger_section(books)] if books else []), classes_section(studies)]
    title = title or (f"Why {first.class_name}?" if len(studies) == 1 else f"{len(studies)} explanations")
    return Report(
        title,
        _lede(books),
        tuple(facts.items()),
        (*(section for section in sections if section), how_section(commands)),
    )


def pictures_section(studies: Sequence[Study]) -> Section:
    """Pictures and maps."""
    return Section("Pictures", (SCALE_TEXT,), strips=tuple(map(strip_of, studies)))


def ledger_section(books: Sequence[tuple[Study, str, Relevance]]) -> Section:
    """The conservation ledgers, by block."""
    return Section("Conservation", (LEDGER_TEXT,), bars=tuple(_ledger_bars(*book) for book in books), folds=True)


def classes_section(studies: Sequence[Study]) -> Section | None:
    """The most probable classes of each picture."""
    found = [study for study in studies if study.top]
    if not found:
        return None
    return Section("What the model says", bars=tuple(_class_bars(study) for study in found))


def how_section(commands: Sequence[str], versions: dict[str, str] | None = None, system: str = "") -> Section:
    """Commands, versions and the machine's kind."""
    known = versions or {name: found for name in LIBRARIES if (found := _version(name))}
    rows = tuple({"Python": platform.python_version(), **known}.items())
    rows = (*rows, ("system", system or f"{platform.system()} {platform.machine()}"))
    code = tuple(("command" if len(commands) == 1 else f"command {at}", text) for at, text in enumerate(commands, 1))
    return Section("How this was made", code=code, tables=(Table("Versions", ("what", "version"), rows, names=2),))


def plain(text: str) -> str:
    """Leave folders out of a text, so that a report does not tell where somebody keeps things."""
    return re.sub(r"(?<![\w./])(?:[A-Za-z]:)?(?:[\\/][^\\/\s:]+)+[\\/]", "", text)


def _lede(books: Sequence[tuple[Study, str, Relevance]]) -> str:
    """The sum of one explanation and the two statements on it; of several, the statements on the worst of each."""
    if not books:
        return ""
    book = Book(depth=2)
    for _, _, result in books:
        assert result.ledger is not None  # the caller has looked
        book.add(result.ledger)
    said = f"{book.conservation.leak_text()}; {book.conservation.score_text}."
    if len(books) > 1:
        return f"Of {len(books)} explanations, the worst: {said}"
    return f"Relevance of {book.end:.6f} arrives at the pixels, of a score of {book.start:.6f}; {said}"


def _ledger_bars(study: Study, method: str, result: Relevance) -> Bars:
    """One ledger as a chart: a bar a block."""
    book = Book(depth=2)
    assert result.ledger is not None  # the caller has looked
    book.add(result.ledger)
    lines = {name: line for name, line in book.lines.items() if line.leak or line.absorbed or "." in name}
    low, high = _axis([line.received for line in lines.values()] + [book.start, book.end])
    absorbs = book.absorbed > 0
    rows = []
    for name, line in lines.items():
        cells = (_number(line.received), _small(line.leak), *([_small(line.absorbed)] if absorbs else []))
        rows.append(BarRow(name, bar(line.received, low, high), cells))
    rows.append(BarRow("the image", bar(book.end, low, high), (_number(book.end), *[""] * (1 + absorbs))))
    said = book.conservation
    note = f"Started with {_number(book.start)}; {_number(book.end)} arrived at the image; {said.leak_text()}; "
    note += f"{said.score_text}. Bars run from zero to the relevance, on an axis from {low:.3g} to {high:.3g}."
    heads = ("block", "relevance received", "", "leak", *(["absorbed"] if absorbs else []))
    return Bars(f"{study.name} ({study.class_name}), {method}", heads, tuple(rows), note)


def _axis(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: zero and every finite value, so that bars of other sizes look different."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    return low, high if high > low else low + 1.0


def _class_bars(study: Study) -> Bars:
    rows = tuple(
        BarRow(name, bar(p, 0.0, 1.0, quiet=at != study.target), (f"{100 * p:.1f} %",)) for at, name, p in study.top
    )
    return Bars(
        f"{study.name}: most probable classes", ("class", "probability", ""), rows, "Orange: the class explained."
    )


def _number(value: float) -> str:
    return f"{value:.6f}" if abs(value) < 1e6 else f"{value:.3e}"


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
