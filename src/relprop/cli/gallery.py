"""A page that shows all pictures of `relprop explain` and links to their files: index.html."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from relprop.documents import printable

NAME = "index.html"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }}
h2 {{ font-size: 1.15rem; margin: 2.5rem 0 0.25rem }}
p {{ margin: 0.25rem 0 }}
img {{ width: 100%; height: auto }}
</style>
<h1>{title}</h1>
<p>{subtitle}</p>
{images}
</html>
"""


def write_index(out: Path, rows: list[dict[str, Any]], subtitle: str) -> Path:
    """Write `index.html` into a folder of results; pictures and files are linked relative to it, nothing is fetched.

    Args:
        out: the folder.
        rows: one an image, as `relprop explain --json` prints them.
        subtitle: model and rules.

    Returns:
        The page's path.
    """
    page = out / NAME
    images = "\n".join(map(_section, rows))
    text = _PAGE.format(title=f"{len(rows)} explanations", subtitle=escape(printable(subtitle)), images=images)
    page.write_bytes(text.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
    return page


def _section(row: dict[str, Any]) -> str:
    """One image: name, class, picture, what regions hold, and links."""
    name, what = (escape(printable(str(row[part]))) for part in ("name", "class"))
    files = [Path(file).name for file in row["files"]]
    picture = next(file for file in files if file.endswith(".png"))
    from relprop.core.result.region import sentence  # loads torch, which the command has by now

    said = [f"<p>{escape(sentence(region))}.</p>" for region in row.get("regions", ())]
    links = " · ".join(f'<a href="{_link(file)}">{escape(printable(file))}</a>' for file in files)
    alt = f"{name} beside the maps of its pixels for {what}"
    return "\n".join(
        [
            "<section>",
            f"<h2>{name}: {what}, {100 * row['probability']:.1f} %</h2>",
            f'<a href="{_link(picture)}"><img loading="lazy" src="{_link(picture)}" alt="{alt}"></a>',
            *said,
            f"<p>{links}</p>",
            "</section>",
        ]
    )


def _link(file: str) -> str:
    return quote(file.encode("utf-8", "surrogateescape"))
