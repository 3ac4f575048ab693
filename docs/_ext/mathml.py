r"""Equations as MathML, which browsers draw themselves: docutils translates, Sphinx only asks for a renderer.

`\tag{4}` gives an equation the paper's number.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

_TAG = re.compile(r"\\tag\{(\w+)\}")


def to_mathml(tex: str, *, block: bool) -> str:
    """Translate TeX into a `math` element."""
    return latex2mathml.tex2mathml(tex.strip(), as_block=block)


def inline(translator: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    translator.body.append(to_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Write an equation on a line of its own, with its number beside it."""
    tex = node.astext()
    found = _TAG.search(tex)
    number = f'<span class="eqno">({found[1]})</span>' if found else ""
    translator.body.append(f'<div class="equation">{to_mathml(_TAG.sub("", tex), block=True)}{number}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
