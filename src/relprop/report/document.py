"""What a report is made of: frozen values that the template turns into HTML."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One picture."""

    uri: str  # the picture itself, as a data URI; empty where there is none
    alt: str  # what it shows, for those who cannot see it
    caption: str  # short, below it
    note: str = ""  # smaller, below that; the reason where there is no picture
    pixelated: bool = False  # whether to show its pixels as squares, as small pictures want


@dataclass(frozen=True)
class PanelRow:
    """Panels that share one colour scale."""

    heading: str  # which picture, which class
    text: str  # what must be said of it
    panels: tuple[Panel, ...]  # the original first
    scale: Markup | None = None  # the colour bar as SVG, with `low` and `high`, what its ends stand for
    low: str = ""
    high: str = ""
    unit: str = ""  # of the scale
    small: bool = False  # whether there are many panels, and they are drawn small


@dataclass(frozen=True)
class BarRow:
    """One line of a bar chart: `svg` is drawn between `label` and the `cells`."""

    label: str
    svg: Markup
    cells: tuple[str, ...]
    quiet: bool = False


@dataclass(frozen=True)
class Bars:
    """A table whose first column is drawn."""

    caption: str  # what is shown
    heads: tuple[str, ...]  # of label, drawing, and each cell
    rows: tuple[BarRow, ...]  # from top to bottom
    note: str = ""  # below


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
    """A part of the report under one heading; what is empty is left out."""

    title: str
    text: tuple[str, ...] = ()  # paragraphs that say how to read it
    rows: tuple[PanelRow, ...] = ()
    plots: tuple[Plot, ...] = ()
    bars: tuple[Bars, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()  # paragraphs that matter
    code: tuple[tuple[str, str], ...] = ()  # (what, text) of commands and the like
    folds: bool = False  # whether bars after the first are folded away until somebody wants them


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str  # large
    summary: str  # one sentence below it: what was found
    metadata: tuple[tuple[str, str], ...]  # (what, text), a short list at the top
    sections: tuple[Section, ...]  # in order
    # files of a run that are not what they claim to be, so that the report is without their rows
    left_out: tuple[str, ...] = ()
