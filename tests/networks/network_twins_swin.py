"""A Swin transformer a second time, slowly: shifted windows token by token, in float64; see `network_twins`."""

from __future__ import annotations

import itertools
import math

import network_twins as slow
import torch
from torch import Tensor, nn


def windows(height: int, width: int, size: int, shift: int) -> list[list[tuple[int, int, int]]]:
    """For each window its tokens: (row, column, region), where tokens of different regions do not see each other."""

    def region(at: int, length: int) -> int:
        return 0 if at < length - size else 1 if at < length - shift else 2

    made = []
    for top, left in itertools.product(range(0, height, size), range(0, width, size)):
        window = []
        for i, j in itertools.product(range(top, top + size), range(left, left + size)):
            label = 3 * region(i, height) + region(j, width) if shift else 0
            window.append(((i + shift) % height, (j + shift) % width, label))
        made.append(window)
    return made


def attend(layer: nn.Module, x: Tensor) -> tuple[list[tuple[list[int], Tensor]], Tensor, Tensor]:
    """Attention of (H, W, C): (tokens, maps (heads, t, t)) of each window, values (H·W, C), and their averages."""
    height, width, channels = x.shape
    size, heads = layer.window_size[0], layer.num_heads
    shift = 0 if size >= height else layer.shift_size[0]
    query, key, value = layer.qkv(x.flatten(0, 1)).chunk(3, 1)
    bias, each = layer.get_relative_position_bias()[0], channels // heads
    mixed, found = torch.zeros_like(value), []
    for window in windows(height, width, size, shift):
        places = [i * width + j for i, j, _ in window]
        labels = torch.tensor([label for *_, label in window])
        apart = -100.0 * (labels[:, None] != labels[None]).to(x.dtype)
        maps = []
        for k in range(heads):
            part = slice(k * each, (k + 1) * each)
            logits = query[places][:, part] @ key[places][:, part].T / math.sqrt(each) + bias[k] + apart
            maps.append(logits.softmax(1))
            mixed[places, part] = maps[k] @ value[places][:, part]
        found.append((places, torch.stack(maps)))
    return found, value, mixed


def share_values(layer: nn.Module, found: list[tuple[list[int], Tensor]], value: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of the values (H·W, C), of that of their averages."""
    each, out = value.shape[1] // layer.num_heads, torch.zeros_like(value)
    for (places, maps), c in itertools.product(found, range(value.shape[1])):
        weights = maps[c // each]
        out[places, c] = slow.by_weights(weights * value[places, c], weights, relevance[places, c])
    return out


def neighbours(x: Tensor) -> Tensor:
    """Four neighbours side by side: (H, W, C) -> (H/2, W/2, 4 C), as patch merging takes them."""
    return torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], -1)


def apart(relevance: Tensor, shape: torch.Size) -> Tensor:
    """Back to where the neighbours came from."""
    out = torch.zeros(shape, dtype=relevance.dtype)
    for part, (i, j) in zip(relevance.chunk(4, -1), ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
        out[i::2, j::2] = part
    return out


@torch.no_grad()
def explain_swin(net: nn.Module, image: Tensor, target: int) -> Tensor:
    """Relevance (3, H, W) of one image."""
    conv, *rest = net.features[0]
    h = conv(image[None])
    patches = h.shape[1:]
    for module in rest:
        h = module(h)
    h, tape = h[0], []
    for part in [
        part for stage in list(net.features)[1:] for part in (stage if isinstance(stage, nn.Sequential) else [stage])
    ]:
        if hasattr(part, "reduction"):
            merged = part.norm(neighbours(h))
            tape.append((part, h, merged))
            h = part.reduction(merged)
            continue
        normed = part.norm1(h)
        found, value, mixed = attend(part.attn, normed)
        attended = part.attn.proj(mixed).view_as(h)
        middle = h + attended
        inner = part.norm2(middle)
        high = part.mlp[1](part.mlp[0](inner))
        narrow = part.mlp[3](high)
        tape.append((part, h, normed, found, value, mixed, attended, middle, inner, high, narrow))
        h = middle + narrow
    last = net.norm(h).permute(2, 0, 1)[None]
    features = last.mean((2, 3))[0]
    relevance = slow.pooled(last, slow.weighted(net.head, features, slow.start(net.head(features), target)))
    relevance = relevance.permute(1, 2, 0)
    for part, entry, *held in reversed(tape):
        if hasattr(part, "reduction"):
            (merged,) = held
            back = slow.tokens(part.reduction, merged.flatten(0, 1), relevance.flatten(0, 1))
            relevance = apart(back.view_as(merged), entry.shape)
            continue
        normed, found, value, mixed, attended, middle, inner, high, narrow = held
        to_narrow, to_middle = slow.join(narrow, middle, relevance)
        to_high = slow.tokens(part.mlp[3], high.flatten(0, 1), to_narrow.flatten(0, 1))
        to_middle = to_middle + slow.tokens(part.mlp[0], inner.flatten(0, 1), to_high).view_as(middle)
        to_attended, to_entry = slow.join(attended, entry, to_middle)
        to_mixed = slow.tokens(part.attn.proj, mixed, to_attended.flatten(0, 1))
        own = nn.Linear(value.shape[1], value.shape[1]).double()
        own.weight.data = part.attn.qkv.weight[2 * value.shape[1] :]
        to_value = share_values(part.attn, found, value, to_mixed)
        relevance = to_entry + slow.tokens(own, normed.flatten(0, 1), to_value).view_as(entry)
    return slow.weighted(conv, image, relevance.permute(2, 0, 1).reshape(patches), ones=True)
