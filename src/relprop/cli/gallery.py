"""A page that shows all pictures of `relprop explain` and links to their files: index.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from relprop.documents import printable

NAME = "index.html"


def write_index(out: Path, rows: list[dict[str, Any]], subtitle: str) -> Path:
    """Write `index.html` into a folder of results; pictures and files are linked relative to it, nothing is fetched.

    Args:
        out: the folder.
        rows: one an image, as `relprop explain --json` prints them.
        subtitle: model and rules.

    Returns:
        The page's path.
    """
    from relprop.report.render import template

    text = template("index.html").render(subtitle=printable(subtitle), images=[*map(_image, rows)])
    (out / NAME).write_bytes(text.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
    return out / NAME


def _image(row: dict[str, Any]) -> dict[str, Any]:
    """One image: name, class, picture, what regions hold, and links."""
    from relprop.core.result.region import sentence

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
