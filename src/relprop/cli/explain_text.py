"""`relprop explain-text`: which words a text model's answer comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from relprop.text import TextModel, TokenRelevance

Texts = Annotated[list[str], typer.Argument(metavar="TEXTS...", help="Texts to explain, each in quotes.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A folder with a Hugging Face model, an installed package that carries one, or a name on the hub.",
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target", "-t", help="Class: number or name; once, or once for each text.", show_default="predicted"
    ),
]
Similar = Annotated[
    str | None, typer.Option("--similar-to", help="Explain how similar the texts are to this one, by their embeddings.")
]
Composite = Annotated[
    str | None, typer.Option("--composite", "-c", help="Choice of rules, as for images.", show_default="transformer")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File for the tokens on their colours, as HTML.")]


def explain_text(
    texts: Texts,
    model: Model,
    target: Target = None,
    similar_to: Similar = None,
    composite: Composite = None,
    start: options.Start = "probability",
    out: Out = None,
    device: options.Device = "auto",
    classes: options.Classes = None,
    json: options.Json = False,
) -> int:
    """Explain texts: which tokens a class, or the similarity to another text, comes from.

    Prints the tokens on the colours of their relevance, with the scale, and what they sum to. Needs the extra text.
    """
    from relprop.core.composites.presets import COMPOSITES
    from relprop.errors import UsageError

    if similar_to is not None and target:
        raise UsageError("--similar-to explains embeddings, which have no classes: leave --target out")
    with console.waiting("loading the model"):
        from relprop import text
        from relprop.models.classes import read_classes

        loaded = text.load(
            model, classes=None if classes is None else read_classes(classes), device=options.choose_device(device)
        )
    rules = None if composite is None else COMPOSITES.build(composite)
    if similar_to is None and loaded.pooling is not None:
        raise UsageError(f"{model!r} is an encoder without classes; give --similar-to TEXT to compare it with")
    if similar_to is not None:
        encoder = loaded.model if loaded.pooling is not None else getattr(loaded.model, "base_model", loaded.model)
        lrp = text.TokenLRP(encoder, loaded.tokenizer, rules, pooling=loaded.pooling or "mean")
        result = lrp.similarity(texts, similar_to)
    else:
        lrp = text.TokenLRP(loaded.model, loaded.tokenizer, rules)
        result = lrp(texts, target[0] if target and len(target) == 1 else target, start=start)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(result.html(), encoding="utf-8")
    if json:
        console.print_json(_document(result, loaded))
    else:
        _print(result, loaded, out)
    return 0


def _print(result: TokenRelevance, loaded: TextModel, out: Path | None) -> None:
    console.heading(f"{loaded.name} · {result.composite}")
    console.out.print(result, soft_wrap=not console.out.is_terminal)
    if not console.out.is_terminal:  # no colours there: numbers
        made = console.table("text", "word", ">relevance")
        for index in range(len(result)):
            for word, value in result.words(index):
                made.add_row(str(index), console.escape(word), f"{value:+.6f}")
        console.show(made)
    assert result.ledger is not None  # LRP keeps a ledger by default
    console.statements(result.ledger.conservation())
    if out is not None:
        console.wrote(out)


def _document(result: TokenRelevance, loaded: TextModel) -> dict[str, Any]:
    assert result.ledger is not None
    texts = [
        {
            "text": result.texts[index],
            "explained": result.explained(index),
            "score": float(result.score[index]),
            "tokens": list(result.tokens[index]),
            "relevance": result.values(index),
            "words": [{"word": word, "relevance": value} for word, value in result.words(index)],
        }
        for index in range(len(result))
    ]
    conservation: dict[str, Any] = {"gap": result.ledger.gap, "absorbed": result.ledger.absorbed}
    conservation |= {"conservation": result.ledger.conservation().document()}
    return {"model": loaded.name, "composite": result.composite, **conservation, "texts": texts}
