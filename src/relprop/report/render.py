"""From a report to one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from relprop.report.document import Report

TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """Write a report as HTML. All text is escaped; pictures and drawings are inside."""
    return template("report.html").render(report=report, style=style(), version=version("relprop"))


def write(report: Report, path: Path) -> Path:
    """Write a report into a file, whole or not at all."""
    from relprop.files import write_bytes

    text = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode("utf-8", "backslashreplace"))
    return path


def style() -> str:
    """Return the style sheet: the colours, which the app shares, and the report's own."""
    return "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("tokens.css", "report.css"))


@cache
def template(name: str) -> Template:
    """Return a page's template, which escapes what it is filled with."""
    files = FileSystemLoader(TEMPLATES)
    made = Environment(loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template(name)
