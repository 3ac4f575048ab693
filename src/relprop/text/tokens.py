"""From texts to tokens, padded to few lengths, and back to the words that tokens are pieces of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError

Text = str | tuple[str, str]

_SHORTEST = 16


@dataclass(frozen=True)
class Piece:
    """One token of a text.

    Attributes:
        token: as the tokenizer writes it: "##ing", "Ġword", "[CLS]".
        text: the characters that it stands for; the token itself where it stands for none.
        word: number of the word that it is a piece of; None for tokens that the tokenizer adds.
        space: whether the text has space before it.
    """

    token: str
    text: str
    word: int | None = None
    space: bool = True


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of texts, padded at the end."""

    ids: Tensor  # (N, T) int64
    # by name, what else the model takes, (N, T) int64: "attention_mask" is 1 at tokens and 0 at padding
    beside: dict[str, Tensor]
    pieces: tuple[tuple[Piece, ...], ...]  # of each text, without padding

    def to(self, device: torch.device) -> Tokens:
        """Move the tensors to a device."""
        return replace(self, ids=self.ids.to(device), beside={k: v.to(device) for k, v in self.beside.items()})


def tokenize(tokenizer: Any, texts: Sequence[Text], names: Sequence[str], limit: int | None = None) -> Tokens:
    """Split texts into tokens. Nothing is cut off.

    Args:
        tokenizer: of Hugging Face's kind.
        texts: each a text, or a pair of them.
        names: of the tensors that the model takes beside ids; those that the tokenizer does not make are left out.
        limit: the most tokens that the model takes.

    Raises:
        InputError: a text is too long.
    """
    rows: list[dict[str, list[int]]] = []
    pieces = []
    for text in texts:
        pair = (text,) if isinstance(text, str) else text
        # verbose would warn of long texts, which are refused here
        found = tokenizer(*pair, truncation=False, return_attention_mask=True, verbose=False)
        rows.append({name: list(found[name]) for name in ("input_ids", *names) if name in found})
        pieces.append(_pieces(tokenizer, found, pair))
    sizes = [len(row["input_ids"]) for row in rows]
    for index, size in enumerate(sizes):
        if limit is not None and size > limit:
            raise InputError(
                f"text {index} has {size} tokens, and the model takes {limit} at most; shorten it, or explain its "
                "parts (nothing is cut off here, since relevance of a part would be taken for that of the whole)"
            )
    width = padded(max(sizes), limit)
    fill = {"input_ids": tokenizer.pad_token_id or 0}
    columns = {
        name: torch.tensor([row[name] + [fill.get(name, 0)] * (width - len(row[name])) for row in rows])
        for name in rows[0]
    }
    return Tokens(columns.pop("input_ids"), columns, tuple(pieces))


def padded(size: int, limit: int | None = None) -> int:
    """The length that a text is padded to: 16, 32, 64, ... tokens, so that few lengths have to be captured."""
    width = _SHORTEST
    while width < size:
        width *= 2
    return width if limit is None else min(width, limit)


def merged(pieces: Sequence[Piece], values: Sequence[float]) -> list[tuple[str, float]]:
    """Merge the pieces of a word, and add up what they got: (word, value) in order."""
    words = []
    keys = [(piece.word, -1) if piece.word is not None else (None, at) for at, piece in enumerate(pieces)]
    for _, group in groupby(range(len(pieces)), key=lambda at: keys[at]):
        members = list(group)
        text = "".join((" " if k and pieces[at].space else "") + pieces[at].text for k, at in enumerate(members))
        words.append((text, float(sum(values[at] for at in members))))
    return words


def _pieces(tokenizer: Any, found: Any, pair: Sequence[str]) -> tuple[Piece, ...]:
    names = tokenizer.convert_ids_to_tokens(found["input_ids"])
    if not getattr(tokenizer, "is_fast", False):
        return tuple(Piece(name, name, at) for at, name in enumerate(names))
    encoding = found.encodings[0]
    made: list[Piece] = []
    numbers: dict[tuple[int, int], int] = {}
    for name, word, sequence, (start, end) in zip(
        names, encoding.word_ids, encoding.sequence_ids, encoding.offsets, strict=True
    ):
        if sequence is None:  # added by the tokenizer
            made.append(Piece(name, name))
            continue
        source = pair[sequence]
        text = source[start:end].strip()
        space = start > 0 and (source[start - 1].isspace() or source[start : start + 1].isspace())
        number = None if word is None else numbers.setdefault((sequence, word), len(numbers))
        made.append(Piece(name, text or name, number, bool(space) or start == 0))
    return tuple(made)


def require_texts(texts: Sequence[Text]) -> None:
    """Refuse what is no text, or empty.

    Raises:
        InputError: it is.
    """
    if not texts:
        raise InputError("there is no text to explain")
    for index, text in enumerate(texts):
        parts = (text,) if isinstance(text, str) else text
        if not isinstance(parts, tuple) or len(parts) not in (1, 2) or not all(isinstance(p, str) for p in parts):
            raise InputError(
                f"text {index} is {text!r}; give a string, a pair of strings (text, other), or a list of these"
            )
        if not all(part.strip() for part in parts):
            raise InputError(f"text {index} is empty")
