"""Token relevance of a BERT classifier a second time: from the equations, by loops, in float64.

Nothing here comes from relprop. One text, without padding. A weighted layer is its matrix (of a linear layer that is
the weight itself), attention is the matrix A of a softmax computed here, and each is shared by

    R_i = Σ_j max(0, z_ij) / Σ_k max(0, z_kj) R_j        z_ij = w_ji h_i, or A_ij v_j in each channel

GELU, tanh and layer norm pass relevance; joins share by |h_k| / Σ |h|; queries and keys get none. The first weighted
layers see ones in place of the embedding, as relprop's default has it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny


def share(z: Tensor, relevance: Tensor, even: Tensor | None = None) -> Tensor:
    """(J, I) contributions and (J,) relevance -> (I,); outputs without positive contributions share by `even`."""
    found = torch.zeros(z.shape[1], dtype=z.dtype)
    for j in range(len(relevance)):
        positive = [max(0.0, float(value)) for value in z[j]]
        total = sum(positive)
        if total > TINY:
            shares = [value / total for value in positive]
        else:
            shares = [1 / z.shape[1]] * z.shape[1] if even is None else even[j].tolist()
        found += torch.tensor(shares, dtype=z.dtype) * relevance[j]
    return found


def linear(layer, value: Tensor, relevance: Tensor, *, ones: bool = False) -> Tensor:
    """Each token by itself: (T, J) -> (T, I)."""
    rows = torch.ones_like(value) if ones else value
    return torch.stack([share(layer.weight * h, r) for h, r in zip(rows, relevance, strict=True)])


def join(parts: tuple[Tensor, Tensor], relevance: Tensor) -> tuple[Tensor, Tensor]:
    sizes = [part.abs() for part in parts]
    both = sizes[0] + sizes[1]
    first = torch.where(both > 0, sizes[0] / both.clamp(min=TINY), 0.5)
    return relevance * first, relevance * (1 - first)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def norm(layer, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def apply(layer, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


@torch.no_grad()
def explain_bert(model, ids: Tensor, types: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Relevance (T,) of the tokens of one text for the probability of a class, and the logits."""
    bert, heads = model.bert, model.config.num_attention_heads
    table = bert.embeddings
    summed = table.word_embeddings.weight[ids] + table.token_type_embeddings.weight[types]
    h = norm(table.LayerNorm, summed + table.position_embeddings.weight[: len(ids)])
    tape = []
    for layer in bert.encoder.layer:
        own, out = layer.attention.self, layer.attention.output
        query, key, value = (apply(f, h) for f in (own.query, own.key, own.value))
        size = value.shape[1] // heads
        maps = []
        for k in range(heads):
            part = slice(k * size, (k + 1) * size)
            logits = query[:, part] @ key[:, part].T / math.sqrt(size)
            powers = (logits - logits.max(1, keepdim=True).values).exp()
            maps.append(powers / powers.sum(1, keepdim=True))
        mixed = torch.cat([maps[k] @ value[:, k * size : (k + 1) * size] for k in range(heads)], 1)
        attended = apply(out.dense, mixed)
        middle = norm(out.LayerNorm, attended + h)
        wide = apply(layer.intermediate.dense, middle)
        narrow = apply(layer.output.dense, gelu(wide))
        tape.append((layer, h, value, maps, mixed, attended, middle, wide, narrow))
        h = norm(layer.output.LayerNorm, narrow + middle)
    pooled = torch.tanh(apply(bert.pooler.dense, h[:1]))
    logits = apply(model.classifier, pooled)[0]
    start = torch.zeros(1, len(logits), dtype=logits.dtype)
    start[0, target] = (logits - logits.logsumexp(0)).exp()[target]
    relevance = torch.zeros_like(h)
    relevance[:1] = linear(bert.pooler.dense, h[:1], linear(model.classifier, pooled, start))
    for place, (layer, entry, value, maps, mixed, attended, middle, wide, narrow) in reversed([*enumerate(tape)]):
        own, out = layer.attention.self, layer.attention.output
        to_narrow, to_middle = join((narrow, middle), relevance)
        to_middle = to_middle + linear(
            layer.intermediate.dense, middle, linear(layer.output.dense, gelu(wide), to_narrow)
        )
        to_attended, to_entry = join((attended, entry), to_middle)
        to_mixed = linear(out.dense, mixed, to_attended)
        size = value.shape[1] // len(maps)
        to_value = torch.zeros_like(value)
        for c in range(value.shape[1]):
            weights = maps[c // size]
            to_value[:, c] = share(weights * value[:, c], to_mixed[:, c], even=weights)
        relevance = to_entry + linear(own.value, entry, to_value, ones=place == 0)
    return relevance.sum(1), logits
