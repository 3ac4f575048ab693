"""A text model from the output of its token embedding on, as a module of one float tensor.

Tokens are names, and relevance of a name means nothing; it stops at what the name is looked up as. Hugging Face's
models take that in the place of the names (`inputs_embeds`), so the rest of a model is a call of it, and nothing of
it is replaced or hooked. Positions and token types are constants that the embedding layer adds, and the layer norm
after them passes relevance, so that each token's number is the same before and after these.

What else belongs to a batch (which tokens are padding, which belong to the second text) are buffers of this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop.core.capture.model import scores_in
from relprop.errors import CaptureError

Pooling = Literal["mean", "cls"]

MASK = "attention_mask"


class Rest(nn.Module):
    """What follows the embedding: (N, T, D) -> scores (N, classes), or what each token adds to the text's embedding.

    Args:
        model: of Hugging Face's kind, in evaluation mode.
        names: of the tensors (N, T) beside the tokens that it takes: "attention_mask" first, ...
        pooling: None for the model's scores; "mean" over the tokens, or the first ("cls"), for the embedding of a text:
            the output is (N, T, D) then, and its sum over tokens is the embedding.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], pooling: Pooling | None) -> None:
        super().__init__()
        self.model, self.names, self.pooling = model, names, pooling
        self.training = False  # of this module alone: the model's own mode is not ours
        for name in names:
            self.register_buffer(name, torch.ones(1, 1, dtype=torch.long), persistent=False)

    def forward(self, embedded: Tensor) -> Tensor:
        """Go on from embeddings (N, T, D)."""
        given = self._given(embedded)
        return self._read(self.model(inputs_embeds=embedded, **given), given[MASK])

    def of_ids(self, ids: Tensor) -> Tensor:
        """Say the same of token ids (N, T), by the model's own embedding."""
        given = self._given(ids)
        return self._read(self.model(input_ids=ids, **given), given[MASK])

    @contextmanager
    def given(self, beside: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold what belongs to a batch, (N, T) each, or (1, T) for all of it."""
        before = {name: getattr(self, name) for name in self.names}
        try:
            for name in self.names:
                setattr(self, name, beside[name])
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def _given(self, batch: Tensor) -> dict[str, Tensor]:
        return {name: getattr(self, name).expand(batch.shape[0], batch.shape[1]) for name in self.names}

    def _read(self, output: Any, mask: Tensor) -> Tensor:
        if self.pooling is None:
            return _scores(output, self.model)
        states = _states(output, self.model)
        if self.pooling == "cls":
            weights = (torch.arange(mask.shape[1], device=mask.device) == 0).to(states.dtype).expand_as(mask)
        else:
            weights = mask.to(states.dtype) / mask.sum(1, keepdim=True)
        return states * weights[..., None]


def embedding_of(model: nn.Module) -> nn.Module:
    """The module that looks tokens up.

    Raises:
        CaptureError: the model is of another kind.
    """
    takes = getattr(model, "get_input_embeddings", None)
    parameters = inspect.signature(model.forward).parameters
    try:
        found = takes() if takes is not None else None
    except (NotImplementedError, AttributeError):
        found = None
    if not isinstance(found, nn.Module) or "inputs_embeds" not in parameters:
        raise CaptureError(
            f"{type(model).__name__} is no text model of Hugging Face's kind: relevance of tokens needs "
            "get_input_embeddings(), and a forward that takes inputs_embeds"
        )
    return found


def longest(model: nn.Module, tokenizer: Any) -> int | None:
    """The most tokens that a text can have; None where nothing limits them."""
    limits = [getattr(tokenizer, "model_max_length", None)]
    positions = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    tables = [module for module in positions if isinstance(module, nn.Embedding)]
    # RoBERTa counts its positions from the one after that of padding
    limits += [
        table.num_embeddings - (table.padding_idx + 1 if table.padding_idx is not None else 0) for table in tables
    ]
    if not tables:
        limits.append(getattr(getattr(model, "config", None), "max_position_embeddings", None))
    found = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 1 << 30]
    return min(found, default=None)


def _scores(output: Any, model: nn.Module) -> Tensor:
    if getattr(output, "logits", None) is None and getattr(output, "last_hidden_state", None) is not None:
        raise CaptureError(
            f"{type(model).__name__} has no classifier, so there is no class to explain; explain how similar the "
            "embeddings of two texts are: relprop.text.similarity(model, tokenizer, text, other)"
        )
    return scores_in(output)


def _states(output: Any, model: nn.Module) -> Tensor:
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor):
        raise CaptureError(
            f"{type(model).__name__} returns no last_hidden_state, so it has no embedding to pool; give the encoder "
            "alone (its base_model), or explain its scores without pooling"
        )
    return states
