"""Rules a second time, slowly: on a layer's dense matrix, by loops over outputs, straight from the formulas."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = torch.finfo(torch.float64).tiny


def dense(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """W (J, I), b (J,), and M (J, I), one where input i is in the receptive field of output j."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)

    def matrix() -> Tensor:
        return torch.autograd.functional.jacobian(lambda v: layer(v).flatten(), zero).flatten(1)

    weights, bias = matrix(), layer(zero).detach().flatten()
    was = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        field = (matrix() != 0).double()
        layer.weight.copy_(was)
    return weights, bias, field


def by_share(z: Tensor, field: Tensor, relevance: Tensor) -> Tensor:
    """R_i = Σ_j z_ij / Σ_k z_kj R_j; where the sum is zero, evenly over the receptive field."""
    out = torch.zeros(z.shape[1], dtype=z.dtype)
    for j, received in enumerate(relevance):
        total = z[j].sum()
        if total > TINY:
            out += z[j] / total * received
        elif field[j].any():
            out += field[j] / field[j].sum() * received
    return out


def z_plus(w, b, m, h, r):
    return by_share((w * h).clamp(min=0), m, r)


def z_plus_ones(w, b, m, h, r):
    return by_share(w.clamp(min=0), m, r)


def flat(w, b, m, h, r):
    return by_share(m, m, r)


def w_square(w, b, m, h, r):
    return by_share(w**2, m, r)


def z_box(low, high):
    def formula(w, b, m, h, r):
        return by_share(w * h - low * w.clamp(min=0) - high * w.clamp(max=0), m, r)

    return formula


def epsilon(eps):
    def formula(w, b, m, h, r):
        out = torch.zeros_like(h)
        for j in range(len(r)):
            z = (w[j] * h).sum() + b[j]
            out += w[j] * h / (z + (eps if z >= 0 else -eps)) * r[j]
        return out

    return formula


def z_plus_epsilon(eps, ones=False):
    def formula(w, b, m, h, r):
        value = torch.ones_like(h) if ones else h
        out = torch.zeros_like(h)
        for j in range(len(r)):
            z = w[j].clamp(min=0) * value
            out += z / (z.sum() + eps) * r[j]
        return out

    return formula


def z_plus_bias(eps):
    def formula(w, b, m, h, r):
        out = torch.zeros_like(h)
        for j in range(len(r)):
            z = (w[j] * h).clamp(min=0)
            out += z / (z.sum() + max(b[j], 0) + eps) * r[j]
        return out

    return formula


def gamma(g, eps):
    def formula(w, b, m, h, r):
        out = torch.zeros_like(h)
        for j in range(len(r)):
            z = torch.cat([w[j] * h, b[j : j + 1]])
            sign = 1 if z.sum() > 0 else -1
            favoured = z + g * (z * sign).clamp(min=0) * sign
            out += favoured[:-1] / (favoured.sum() + sign * eps) * r[j]
        return out

    return formula


def alpha_beta(alpha, beta, eps):
    def formula(w, b, m, h, r):
        out = torch.zeros_like(h)
        for j in range(len(r)):
            z = torch.cat([w[j] * h, b[j : j + 1]])
            above, below = z.clamp(min=0), z.clamp(max=0)
            share = alpha * above / (above.sum() + eps) - beta * below / (below.sum() - eps)
            out += share[:-1] * r[j]
        return out

    return formula


def conserving_alpha_beta(alpha, beta):
    def formula(w, b, m, h, r):
        out = torch.zeros_like(h)
        for j in range(len(r)):
            above, below = (w[j] * h).clamp(min=0), (w[j] * h).clamp(max=0)
            if above.any() and below.any():
                out += (alpha * above / above.sum() - beta * below / below.sum()) * r[j]
            elif above.any() or below.any():
                out += (above + below) / (above + below).sum() * r[j]
            elif m[j].any():
                out += m[j] / m[j].sum() * r[j]
        return out

    return formula


def conserving_gamma(g):
    def formula(w, b, m, h, r):
        out = torch.zeros_like(h)
        for j in range(len(r)):
            z = w[j] * h
            favoured = z + g * (z.clamp(min=0) if z.sum() > 0 else z.clamp(max=0))
            if favoured.sum() != 0:
                out += favoured / favoured.sum() * r[j]
            elif m[j].any():
                out += m[j] / m[j].sum() * r[j]
        return out

    return formula
