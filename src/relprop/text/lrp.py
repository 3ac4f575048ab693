"""`TokenLRP(model, tokenizer)(texts)`: relevance of tokens, by the `LRP` that explains images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from relprop.core.capture import require_evaluation_mode, unwrap
from relprop.core.composites.composite import Composite
from relprop.core.lrp import LRP
from relprop.core.result.batches import part_of
from relprop.core.result.relevance import Relevance
from relprop.core.targets.start import Start, Target
from relprop.core.targets.target import Similarity
from relprop.errors import CaptureError, TargetError, UsageError
from relprop.text.relevance import TokenRelevance, gathered
from relprop.text.rest import MASK, Pooling, Rest, embedding_of, longest
from relprop.text.tokens import Text, Tokens, require_texts, tokenize

Texts = Text | Sequence[Text]

# How far scores from embeddings may be from the model's own scores of the tokens, relative to the largest.
_TOLERANCE = 1e-3


class TokenLRP:
    """Layer-wise relevance propagation through a text model, from its scores to the tokens.

        lrp = relprop.text.TokenLRP(model, tokenizer)
        result = lrp(["What a lovely film.", "It is far too long."])       # the predicted class of each
        result = lrp("What a lovely film.", target="positive")

    Relevance ends at the output of the token embedding, and is summed over its numbers: one a token. The model is
    captured once for each padded length, 16, 32, 64, ... tokens, and nothing is attached to it.

    Args:
        model: of Hugging Face's kind, in evaluation mode: a sequence classifier, or with `pooling` an encoder.
        tokenizer: the model's own.
        composite: which rules to use; by default what suits the network, as in `relprop.LRP`.
        pooling: how an encoder's token states become the embedding of a text: "mean", or that of the first token
            ("cls"); None for a model that returns scores.
        batch_size: texts explained at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        composite: Composite | None = None,
        *,
        pooling: Pooling | None = None,
        batch_size: int = 16,
    ) -> None:
        inner = unwrap(model)
        if not isinstance(inner, nn.Module):
            raise UsageError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
            raise UsageError(f"tokenizer must be a tokenizer of transformers, not {type(tokenizer).__name__}")
        if pooling not in (None, "mean", "cls"):
            raise UsageError(f"pooling must be 'mean', 'cls' or None, not {pooling!r}")
        if batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, not {batch_size}")
        self.model, self.tokenizer, self.batch_size = inner, tokenizer, batch_size
        self.embedding = embedding_of(inner)
        taken = inspect.signature(inner.forward).parameters
        self._names = tuple(name for name in (MASK, "token_type_ids") if name in taken)
        if MASK not in self._names:
            raise CaptureError(f"{type(inner).__name__} takes no {MASK}, so padding would take part in what it says")
        self._limit = longest(inner, tokenizer)
        self._pooling = pooling
        self._composite = composite
        self._engines: dict[tuple[str, ...], tuple[Rest, LRP]] = {}
        self._checked: set[tuple[tuple[str, ...], int]] = set()

    def __call__(self, texts: Texts, target: Any = None, *, start: Start = "probability") -> TokenRelevance:
        """Explain a text, or several.

        Args:
            texts: a string, a pair of strings that the model reads together, or a list of these.
            target: what to explain: None for the predicted class, a class by number or by the model's own label, a list
                with one for each text, or a target as for images (`relprop.targets`).
            start: relevance begins with the class's "probability" or its "logit".

        Raises:
            InputError: no text, an empty one, or one that is too long for the model.
            TargetError: no such class.
            CaptureError, UnsupportedOpError: the model cannot be captured, or steps of it have no rule.
        """
        listed = _listed(texts)
        require_texts(listed)
        chosen = self._target(target, len(listed))
        parts = []
        for at in range(0, len(listed), self.batch_size):
            piece = slice(at, at + self.batch_size)
            tokens = self._tokens(listed[piece])
            result = self._explain(tokens, part_of(chosen, piece, len(listed)), part_of(start, piece, len(listed)))
            parts.append((result, tokens))
        return gathered(listed, parts, labels_of(self.model), pooled=self._pooling is not None)

    def similarity(self, texts: Texts, other: Text | Tensor) -> TokenRelevance:
        """Explain how similar texts are to another: relevance sums to the cosine of their embeddings.

        What token t adds to the cosine is Σ_k m_t h_tk b_k / (|a| |b|), for its state h, its weight m in the pooled
        embedding a = Σ_t m_t h_t, and the other text's embedding b. Relevance begins with that, of either sign.

        Args:
            texts: whose tokens are explained.
            other: the text that they are compared with, or its embedding (D,), or one for each text (N, D).
        """
        if self._pooling is None:
            raise UsageError("similarity compares embeddings; say how tokens become one: TokenLRP(..., pooling='mean')")
        embedding = other if isinstance(other, Tensor) else self.embed(other)[0]
        result = self(texts, Similarity(embedding))
        named = other if isinstance(other, str) else " / ".join(other) if isinstance(other, tuple) else ""
        return replace(result, what=f"similarity to {named!r}") if named else result

    def embed(self, texts: Texts) -> Tensor:
        """The embeddings of texts, (N, D), not scaled to length one."""
        if self._pooling is None:
            raise UsageError("embeddings need pooling: TokenLRP(..., pooling='mean')")
        listed = _listed(texts)
        require_texts(listed)
        tokens = self._tokens(listed)
        rest, _ = self._engine(tokens)
        with torch.no_grad(), rest.given(tokens.beside):
            return rest.of_ids(tokens.ids).sum(1)

    @torch.no_grad()
    def _explain(self, tokens: Tokens, target: Target, start: Start) -> Relevance:
        require_evaluation_mode(self.model)
        rest, lrp = self._engine(tokens)
        embedded = self.embedding(tokens.ids)
        key = (tuple(tokens.beside), tokens.ids.shape[1])
        if key not in self._checked:
            with rest.given({name: value[:1] for name, value in tokens.beside.items()}):
                _require_same(rest, tokens.ids[:1], embedded[:1])
            self._checked.add(key)
        with rest.given(tokens.beside):
            result: Relevance = lrp(embedded, target, start=start)
        _require_none_on_padding(result, tokens.beside[MASK])
        return result

    def _tokens(self, texts: Sequence[Text]) -> Tokens:
        tokens = tokenize(self.tokenizer, texts, self._names, self._limit)
        return tokens.to(next(self.embedding.parameters()).device)

    def _engine(self, tokens: Tokens) -> tuple[Rest, LRP]:
        names = tuple(tokens.beside)
        if names not in self._engines:
            rest = Rest(self.model, names, self._pooling)
            self._engines[names] = rest, LRP(rest, self._composite)
        return self._engines[names]

    def _target(self, target: Any, count: int) -> Any:
        """The target with classes by number where they were given by label."""
        if self._pooling is not None and target is None:
            raise TargetError("an embedding has no predicted class; explain its similarity to another text's")
        several = isinstance(target, Sequence | Tensor) and not isinstance(target, str)
        if not several or (isinstance(target, Tensor) and target.dim() == 0):
            return self._class(target)
        if len(target) != count:
            raise TargetError(f"there are {len(target)} targets for {count} text(s); give one, or one for each")
        if any(isinstance(part, list | tuple) or (isinstance(part, Tensor) and part.dim() > 0) for part in target):
            raise TargetError("one target a text: call again for another")
        return target if isinstance(target, Tensor) else [self._class(part) for part in target]

    def _class(self, target: Any) -> Any:
        if not isinstance(target, str):
            return target
        labels = labels_of(self.model)
        found = [k for k, label in enumerate(labels) if label.lower() == target.strip().lower()]
        if len(found) == 1:
            return found[0]
        if target.strip().lstrip("+-").isdigit():
            return int(target)
        raise TargetError(f"no class is called {target!r}; the model's are {', '.join(labels) or 'without names'}")


def explain(
    model: nn.Module,
    tokenizer: Any,
    texts: Texts,
    target: Any = None,
    *,
    composite: Composite | None = None,
    start: Start = "probability",
) -> TokenRelevance:
    """Which tokens made a text classifier say that: `TokenLRP(model, tokenizer, composite)(texts, target)`."""
    return TokenLRP(model, tokenizer, composite)(texts, target, start=start)


def similarity(
    model: nn.Module,
    tokenizer: Any,
    texts: Texts,
    other: Text | Tensor,
    *,
    pooling: Pooling = "mean",
    composite: Composite | None = None,
) -> TokenRelevance:
    """Which tokens make a text similar to another: `TokenLRP(model, tokenizer, pooling=pooling).similarity(...)`."""
    return TokenLRP(model, tokenizer, composite, pooling=pooling).similarity(texts, other)


def labels_of(model: nn.Module) -> tuple[str, ...]:
    """The classes' names by number, as the model's configuration has them."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _listed(texts: Texts) -> list[Text]:
    """A list of texts; a tuple of two strings is one pair."""
    if isinstance(texts, str):
        return [texts]
    pair = isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(part, str) for part in texts)
    return [texts] if pair else [*texts]  # type: ignore[list-item]


def _require_same(rest: Rest, ids: Tensor, embedded: Tensor) -> None:
    """Refuse a model that says something else of embeddings than of the tokens that they are of."""
    by_ids, by_embedding = rest.of_ids(ids), rest(embedded)
    scale = by_ids.abs().max().clamp(min=1e-12)
    same = by_ids.shape == by_embedding.shape
    difference = float((by_ids - by_embedding).abs().max() / scale) if same else float("inf")
    if not difference <= _TOLERANCE:
        raise CaptureError(
            f"{type(rest.model).__name__} says something else when it is given embeddings in place of tokens (they "
            f"differ by {difference:.1e} of its largest score), so relevance of the embeddings would not be that of "
            "the tokens; models that read the token numbers elsewhere (to find the last token, say) cannot be explained"
        )


def _require_none_on_padding(result: Relevance, mask: Tensor) -> None:
    """Refuse relevance that would be cut off with the padding."""
    lost = result.relevance.abs().sum(-1)[mask == 0]
    if bool((lost > 0).any()):
        raise UsageError(
            "the padding of shorter texts gets relevance: the model, or a rule, does not keep to the attention mask"
        )
