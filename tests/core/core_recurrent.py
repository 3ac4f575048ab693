"""LSTM and GRU a second time, forwards and backwards, unit by unit: straight from the equations, in Python's numbers.

Nothing here comes from `relprop`. A gate is a constant and its signal takes all (Arras et al. 2017); a sum of two
branches shares by their magnitudes, evenly where both are zero; a weighted sum by positive contributions (z⁺), and
evenly over what it reads of the input where there is none. At the first time there is no state to share with.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn


class Last(nn.Module):
    """What a layer says at the last time of signals (N, T, features)."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x if self.layer.batch_first else x.transpose(0, 1))[0]
        return y[:, -1] if self.layer.batch_first else y[-1]


def seeded(make, *args, seed=0, **options):
    """What `make` returns, in evaluation mode, with weights from a seed."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args, **options).eval()


def lstm(layer: nn.LSTM, x: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (T, H) of one signal x (T, inputs), and its relevance for what is given of each state (T, H)."""
    (w_ih, w_hh, b_ih, b_hh), size = weights(layer), layer.hidden_size
    h, c, times = [0.0] * size, [0.0] * size, []
    for value in x.tolist():
        rows = [total(w_ih[k], value) + total(w_hh[k], h) + b_ih[k] + b_hh[k] for k in range(4 * size)]
        i, f, o = ([sigmoid(z) for z in rows[k * size : (k + 1) * size]] for k in (0, 1, 3))
        g = [math.tanh(z) for z in rows[2 * size : 3 * size]]
        kept, new = [f[k] * c[k] for k in range(size)], [i[k] * g[k] for k in range(size)]
        times.append((value, h, kept, new))
        c = [kept[k] + new[k] for k in range(size)]
        h = [o[k] * math.tanh(c[k]) for k in range(size)]
        times[-1] += (h,)
    relevance, of_h, of_c = [], [0.0] * size, [0.0] * size
    for t, (value, before, kept, new, _) in reversed([*enumerate(times)]):
        of_x, next_h, next_c = [0.0] * len(value), [0.0] * size, [0.0] * size
        for k in range(size):
            arrived = of_c[k] + of_h[k] + float(given[t, k])
            to_kept, to_new = shared(kept[k], new[k], arrived) if t else (0.0, arrived)
            next_c[k] = to_kept
            row = 2 * size + k
            to_x, to_h = weighed((w_ih[row], value), (w_hh[row], before) if t else ([], []), to_new)
            of_x = added(of_x, to_x)
            next_h = added(next_h, to_h) if t else next_h
        of_h, of_c = next_h, next_c
        relevance.append(of_x)
    return torch.tensor([h for *_, h in times], dtype=x.dtype), torch.tensor(relevance[::-1], dtype=x.dtype)


def gru(layer: nn.GRU, x: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """As `lstm`: n = tanh(W x + b + r (U h + d)), h' = (1 - z) n + z h."""
    (w_ih, w_hh, b_ih, b_hh), size = weights(layer), layer.hidden_size
    h, times = [0.0] * size, []
    for value in x.tolist():
        reads = [total(w_ih[k], value) + b_ih[k] for k in range(3 * size)]
        recalls = [total(w_hh[k], h) + b_hh[k] for k in range(3 * size)]
        r, z = ([sigmoid(reads[n + k] + recalls[n + k]) for k in range(size)] for n in (0, size))
        first, second = reads[2 * size :], [r[k] * recalls[2 * size + k] for k in range(size)]
        new = [(1 - z[k]) * math.tanh(first[k] + second[k]) for k in range(size)]
        kept = [z[k] * h[k] for k in range(size)]
        times.append((value, h, first, second, new, kept))
        h = [new[k] + kept[k] for k in range(size)]
        times[-1] += (h,)
    relevance, of_h = [], [0.0] * size
    for t, (value, before, first, second, new, kept, _) in reversed([*enumerate(times)]):
        of_x, next_h = [0.0] * len(value), [0.0] * size
        for k in range(size):
            arrived, row = of_h[k] + float(given[t, k]), 2 * size + k
            to_new, to_kept = shared(new[k], kept[k], arrived) if t else (arrived, 0.0)
            next_h[k] += to_kept
            to_first, to_second = shared(first[k], second[k], to_new) if t else (to_new, 0.0)
            of_x = added(of_x, weighed((w_ih[row], value), ([], []), to_first)[0])
            if t:
                next_h = added(next_h, weighed((w_hh[row], before), ([], []), to_second)[0])
        of_h = next_h
        relevance.append(of_x)
    return torch.tensor([h for *_, h in times], dtype=x.dtype), torch.tensor(relevance[::-1], dtype=x.dtype)


def weights(layer: nn.RNNBase) -> tuple[list, list, list, list]:
    return tuple(getattr(layer, f"{name}_l0").tolist() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def total(row: list[float], values: list[float]) -> float:
    return sum(w * v for w, v in zip(row, values, strict=True))


def added(one: list[float], other: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def shared(one: float, other: float, relevance: float) -> tuple[float, float]:
    size = abs(one) + abs(other)
    part = abs(one) / size if size else 0.5
    return part * relevance, (1 - part) * relevance


def weighed(one: tuple[list, list], other: tuple[list, list], relevance: float) -> tuple[list, list]:
    """z⁺ over two groups of inputs, (weights, values) each."""
    positive = [[max(0.0, w * v) for w, v in zip(*group, strict=True)] for group in (one, other)]
    z = sum(map(sum, positive))
    count = len(one[0]) + len(other[0])
    parts = [[part / z if z else 1 / count for part in group] for group in positive]
    return tuple([part * relevance for part in group] for group in parts)
