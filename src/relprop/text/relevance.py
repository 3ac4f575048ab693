"""The result for texts: one number a token, frozen and savable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.core.backward.ledger import Ledger
from relprop.core.result.relevance import Relevance
from relprop.core.result.stored import Stored, write_result
from relprop.errors import InputError, require
from relprop.text.tokens import Piece, Text, Tokens, merged

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class TokenRelevance:
    """Relevance of every token of N texts, of which the longest has T tokens.

    Attributes:
        texts: as they were given.
        pieces: the tokens of each text.
        relevance: (N, T) float32 (float64 for float64 models); zero beyond the tokens of a text.
        target: (N,) the class explained; -1 where it was not the score of one class.
        score: (N,) the relevance that the backward pass started with: a probability, a logit, a cosine of embeddings.
        output: what the model said: logits (N, classes), or the texts' embeddings (N, D).
        labels: the classes' names; may be empty.
        ledger: what each step received and passed on.
        composite: name of the composite.
        what: what was explained where that is not one class, in words.
    """

    texts: tuple[Text, ...]
    pieces: tuple[tuple[Piece, ...], ...]
    relevance: Tensor
    target: Tensor
    score: Tensor
    output: Tensor
    labels: tuple[str, ...] = ()
    ledger: Ledger | None = None
    composite: str = ""
    what: str = ""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of each text as the tokenizer writes them."""
        return tuple(tuple(piece.token for piece in pieces) for pieces in self.pieces)

    def values(self, index: int = 0) -> list[float]:
        """Relevance of each token of a text."""
        found: list[float] = self.relevance[index, : len(self.pieces[index])].tolist()
        return found

    def words(self, index: int = 0) -> list[tuple[str, float]]:
        """The words of a text with their relevance: the sum over the pieces of each."""
        return merged(self.pieces[index], self.values(index))

    def explained(self, index: int = 0) -> str:
        """What was explained of a text: the class by name, or what else it was."""
        target = int(self.target[index])
        if self.what or target < 0:
            return self.what
        return self.labels[target] if target < len(self.labels) else f"class {target}"

    def __repr__(self) -> str:
        """What a debugger prints: no tensors, but what they say."""
        said = [f"{self.explained(n)}: {float(self.score[n]):.4g}" for n in range(min(4, len(self)))]
        more = f", and {len(self) - 4} more" if len(self) > 4 else ""
        leak = "" if self.ledger is None else f"; largest leak {self.ledger.gap:.1e}"
        return f"TokenRelevance({len(self)} text(s) by {self.composite}; {', '.join(said)}{more}{leak})"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What `rich.print(result)` shows: the tokens on their colours."""
        # drawing stands above: it is reached by name, and only when somebody asks
        yield from require("relprop.viz.tokens", "all").terminal(self)

    def _repr_html_(self) -> str:
        shown: str = require("relprop.viz.tokens", "all").fragment(self)
        return shown

    def html(self) -> str:
        """One HTML page with the tokens of all texts on their colours; no script, and nothing fetched."""
        page: str = require("relprop.report.of_tokens", "all").page(self)
        return page

    def save(self, directory: str | Path) -> Path:
        """Write `relevance.safetensors` and `manifest.json` into a directory, made if absent; raw floats, no pickle.

        Returns:
            The directory.
        """
        return write_result(directory, {name: getattr(self, name) for name in _TENSORS}, self._manifest())

    def _manifest(self) -> dict[str, Any]:
        return {
            "kind": "text",
            "format": _FORMAT,
            "composite": self.composite,
            "what": self.what,
            "texts": list(self.texts),
            "pieces": [[asdict(piece) for piece in pieces] for pieces in self.pieces],
            "labels": list(self.labels),
            "target": self.target.tolist(),
            "score": self.score.tolist(),
            "gap": None if self.ledger is None else self.ledger.gap,
            "absorbed": None if self.ledger is None else self.ledger.absorbed,
            "conservation": None if self.ledger is None else self.ledger.conservation().document(),
        }

    @classmethod
    def load(cls, directory: str | Path) -> TokenRelevance:
        """Read what `save` wrote; the ledger is not among it, but for its gap in the manifest.

        Raises:
            InputError: there is no saved result of texts, it is of an unknown format, or its parts do not fit one
                another.
        """
        stored = Stored(directory)
        if stored.manifest.get("kind") != "text" or stored.manifest.get("format") != _FORMAT:
            raise InputError(f"{directory} holds no result of texts in format {_FORMAT}")
        texts = tuple(_load_text(stored, text) for text in stored.get("texts", list))
        pieces = tuple(_load_pieces(stored, row) for row in stored.get("pieces", list))
        relevance = stored.tensor("relevance")
        if len(pieces) != len(texts) or relevance.dim() != 2 or len(relevance) != len(texts):
            stored.refuse(f"its relevance is {tuple(relevance.shape)} for {len(texts)} texts")
        if any(len(row) > relevance.shape[1] for row in pieces):
            stored.refuse(f"a text has more than {relevance.shape[1]} tokens")
        output = stored.tensor("output")
        if output.dim() != 2 or len(output) != len(texts):
            stored.refuse(f"its output is {tuple(output.shape)} for {len(texts)} texts")
        return cls(
            texts,
            pieces,
            relevance,
            stored.tensor("target", (len(texts),)),
            stored.tensor("score", (len(texts),)),
            output,
            labels=stored.texts("labels"),
            composite=stored.get("composite", str),
            what=stored.get("what", str),
        )


def _load_text(stored: Stored, found: object) -> Text:
    if isinstance(found, str):
        return found
    if not (isinstance(found, list) and len(found) == 2 and all(type(part) is str for part in found)):
        stored.refuse(f"it holds the text {repr(found)[:60]}")
    return found[0], found[1]


def _load_pieces(stored: Stored, found: Any) -> tuple[Piece, ...]:
    kinds = {"token": (str,), "text": (str,), "word": (int, type(None)), "space": (bool,)}
    for piece in found if isinstance(found, list) else [found]:
        fits = isinstance(piece, dict) and piece.keys() == kinds.keys()
        if not fits or any(type(value) not in kinds[name] for name, value in piece.items()):
            stored.refuse(f"it holds the token {repr(piece)[:60]}")
    return tuple(Piece(**piece) for piece in found if isinstance(found, list))


_TENSORS = ("relevance", "target", "score", "output")


def gathered(
    texts: Sequence[Text], parts: Sequence[tuple[Relevance, Tokens]], labels: tuple[str, ...], *, pooled: bool
) -> TokenRelevance:
    """One result of those for parts of a batch, in main memory: each token's numbers summed, without the padding."""
    parts = [(result.cpu(), tokens) for result, tokens in parts]  # where the words are; some devices know no float64
    pieces = tuple(found for _, tokens in parts for found in tokens.pieces)
    width = max(map(len, pieces))
    columns = []
    for result, _ in parts:
        each = result.relevance.double().sum(-1).to(result.relevance.dtype)[:, :width]
        columns.append(torch.nn.functional.pad(each, (0, width - each.shape[1])))
    first = parts[0][0]
    return TokenRelevance(
        tuple(texts),
        pieces,
        torch.cat(columns),
        torch.cat([result.target for result, _ in parts]),
        torch.cat([result.score for result, _ in parts]),
        torch.cat([result.logits.sum(1) if pooled else result.logits for result, _ in parts]),
        () if pooled else labels,
        Ledger.cat([result.ledger for result, _ in parts if result.ledger is not None]),
        first.composite,
        first.what,
    )
