"""One HTML page for the relevance of tokens."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from markupsafe import Markup

from relprop.report.render import style, template
from relprop.viz.tokens import chips, legend, scale_for, summary

if TYPE_CHECKING:
    from relprop.text.relevance import TokenRelevance


def page(result: TokenRelevance) -> str:
    """Write a result as a page: tokens on one scale, their words' numbers folded away. All text is escaped."""
    scale = scale_for(result)
    texts = [
        {
            "chips": Markup(chips(result, index, scale)),  # escaped there
            "summary": summary(result, index),
            "words": [(word, f"{value:+.6f}") for word, value in result.words(index)],
        }
        for index in range(len(result))
    ]
    conservation = ""
    if result.ledger is not None:
        said = result.ledger.conservation()
        conservation = f" · {result.composite} · {said.leak_text()}; {said.score_text}"
    return template("tokens.html").render(
        title="Relevance of tokens",
        summary="What each token adds: relevance of a text's tokens sums to what was explained of it.",
        style=Markup(style()),  # ours: quotes in it are no text
        legend=Markup(legend(scale)),
        texts=texts,
        conservation=conservation,
        version=version("relprop"),
    )
