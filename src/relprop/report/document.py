"""What a report is made of: frozen values that the template turns into HTML."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        uri: the picture itself, as a data URI; empty where there is none.
        alt: what it shows, for those who cannot see it.
        caption: short, below it.
        note: smaller, below that; the reason where there is no picture.
        pixelated: whether to show its pixels as squares, as small pictures want.
    """

    uri: str
    alt: str
    caption: str
    note: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class PanelRow:
    """Panels that share one colour scale.

    Attributes:
        heading: which picture, which class.
        text: what must be said of it.
        panels: the original first.
        scale: the colour bar as SVG, with `low` and `high`, what its ends stand for.
        unit: of the scale.
        small: whether there are many panels, and they are drawn small.
    """

    heading: str
    text: str
    panels: tuple[Panel, ...]
    scale: Markup | None = None
    low: str = ""
    high: str = ""
    unit: str = ""
    small: bool = False


@dataclass(frozen=True)
class BarRow:
    """One line of a bar chart: `svg` is drawn between `label` and the `cells`."""

    label: str
    svg: Markup
    cells: tuple[str, ...]
    quiet: bool = False


@dataclass(frozen=True)
class Bars:
    """A table whose first column is drawn.

    Attributes:
        caption: what is shown.
        heads: of label, drawing, and each cell.
        rows: from top to bottom.
        note: below.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[BarRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    svg: Markup


@dataclass(frozen=True)
class Plot:
    """A line chart with its legend."""

    caption: str
    svg: Markup
    legend: tuple[Key, ...]


@dataclass(frozen=True)
class Table:
    """A plain table; all columns but the first `names` hold numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading; what is empty is left out.

    Attributes:
        title: the heading.
        text: paragraphs that say how to read it.
        rows, plots, bars, tables: what is shown.
        notes: paragraphs that matter.
        code: (what, text) of commands and the like.
        folds: whether bars after the first are folded away until somebody wants them.
    """

    title: str
    text: tuple[str, ...] = ()
    rows: tuple[PanelRow, ...] = ()
    plots: tuple[Plot, ...] = ()
    bars: tuple[Bars, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    code: tuple[tuple[str, str], ...] = ()
    folds: bool = False


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: large.
        summary: one sentence below it: what was found.
        metadata: (what, text), a short list at the top.
        sections: in order.
        left_out: files of a run that are not what they claim to be, so that the report is without their rows.
    """

    title: str
    summary: str
    metadata: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    left_out: tuple[str, ...] = ()
