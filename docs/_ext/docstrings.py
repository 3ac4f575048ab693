"""Docstrings are written for `help()`, in plain text: tell Sphinx what is a formula, and what is only a character.

Indented paragraphs are equations (shown as they are), `name` is code, and |h|, w* or W_ are no markup.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(`[^`]*`)")
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$")
_ITEM = re.compile(r"^\s*- ")


def plain(line: str) -> str:
    """Escape what reStructuredText would read as markup, outside of code."""
    parts = _CODE.split(line)
    return "".join(p if p.startswith("`") else re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", p) for p in parts)


def prepare(lines: list[str]) -> list[str]:
    """Mark equations, set lists apart, escape the rest."""
    out: list[str] = []
    in_section = in_equation = False
    for line in lines:
        if _SECTION.match(line):
            in_section = True
        indented = line.startswith("    ")
        if not in_section and indented:
            if not in_equation:
                out += ["::", ""] if not out or not out[-1] else ["", "::", ""]
                in_equation = True
            out.append(line)
            continue
        if in_equation and line.strip():
            in_equation = False
            out.append("")
        if _ITEM.match(line) and out and out[-1].strip() and not _ITEM.match(out[-1]):
            out.append("")
        out.append(line if in_equation else plain(line))
    return out


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = prepare(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
