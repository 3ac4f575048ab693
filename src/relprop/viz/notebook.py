"""How a result shows itself in a notebook: its maps, and its numbers in words that a screen reader can read too."""

from __future__ import annotations

import html
import io

from relprop.core.result.relevance import Relevance
from relprop.core.result.several import Relevances
from relprop.viz.figure import figure, is_map
from relprop.viz.overlay import uri_of

LIMIT = 8
"""At most so many maps are drawn, and lines printed."""

_CELL = 'style="text-align: right; padding: 0.1em 0.8em"'


def png(result: Relevance | Relevances) -> bytes | None:
    """The first maps of a result on one scale, as PNG; None where there is nothing to draw."""
    from relprop.core.result.several import Relevances

    parts = [*result] if isinstance(result, Relevances) else [result]
    if not any(map(is_map, parts)) or not all(bool(part.relevance.isfinite().all()) for part in parts):
        return None
    buffer = io.BytesIO()
    figure(result, limit=LIMIT, dpi=90).savefig(buffer, format="png")
    return buffer.getvalue()


def page(result: Relevance) -> str:
    """The maps and a table of what they sum to, as HTML that needs no script and fetches nothing."""
    drawn = png(result)
    parts = [f"<p>{html.escape(repr(result))}</p>"]
    if drawn is not None:
        count = min(LIMIT, result.target.numel())
        alt = f"relevance of the pixels of {count} map(s), on one scale; the table gives their numbers"
        parts.append(f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="{uri_of(drawn, "png")}">')
    return "<div>" + "".join(parts) + _table(result) + "</div>"


def _table(result: Relevance) -> str:
    each = 1 if result.target.dim() == 1 else result.target.shape[1]
    sums = result.relevance.double().flatten(result.target.dim()).sum(-1).flatten().tolist()
    targets, scores = result.target.flatten().tolist(), result.score.flatten().tolist()
    head = "".join(f'<th scope="col" {_CELL}>{name}</th>' for name in ("image", "explained", "score", "Σ relevance"))
    rows = []
    for index, (target, score, total) in enumerate(zip(targets[:LIMIT], scores, sums, strict=False)):
        what = result.what or f"class {target}"
        cells = (str(index // each), html.escape(what), f"{score:.6f}", f"{total:.6f}")
        rows.append("<tr>" + "".join(f"<td {_CELL}>{cell}</td>" for cell in cells) + "</tr>")
    rest = f"<p>and {len(targets) - LIMIT} more</p>" if len(targets) > LIMIT else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{rest}"
