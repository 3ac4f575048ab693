"""From a report to one HTML file that needs nothing else: no network, no script; and a page that links to results."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from relprop.core.result.region import sentence
from relprop.documents import printable
from relprop.report.document import Report

INDEX = "index.html"
TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """Write a report as HTML. All text is escaped; pictures and drawings are inside."""
    return template("report.html").render(report=report, style=style(), version=version("relprop"))


def write(report: Report, path: Path) -> Path:
    """Write a report into a file, whole or not at all."""
    from relprop.files import write_bytes

    write_bytes(path, render(report).encode("utf-8", "backslashreplace"))
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


def write_index(out: Path, rows: list[dict[str, Any]], subtitle: str) -> Path:
    """Write `index.html` into a folder of results, which links to the files there; a row is as --json prints it."""
    text = template("index.html").render(subtitle=printable(subtitle), images=[*map(_image, rows)])
    (out / INDEX).write_bytes(text.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
    return out / INDEX


def _image(row: dict[str, Any]) -> dict[str, Any]:
    """One image: name, class, picture, what regions hold, and links."""
    files = [Path(file).name for file in row["files"]]
    return {
        "name": printable(row["name"]),
        "what": printable(row["class"]),
        "percent": f"{100 * row['probability']:.1f}",
        "picture": next(_link(file) for file in files if file.endswith(".png")),
        "regions": [sentence(region) for region in row.get("regions", ())],
        "files": [(printable(file), _link(file)) for file in files],
    }


def _link(file: str) -> str:
    return quote(file.encode("utf-8", "surrogateescape"))
