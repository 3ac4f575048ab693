"""Rules a second time, on a layer's dense matrix: what outputs share with inputs, straight from the formulas."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = torch.finfo(torch.float64).tiny


@torch.no_grad()
def dense(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """W (J, I), b (J,), and M (J, I), one where input i is in the receptive field of output j."""
    ones = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).view(-1, *shape)
    bias = layer(torch.zeros_like(ones[:1])).flatten()
    was, own = layer.weight.clone(), layer.bias
    layer.bias = None
    weights = layer(ones).flatten(1).T
    layer.weight.fill_(1.0)
    field = (layer(ones).flatten(1).T != 0).double()
    layer.weight.copy_(was)
    layer.bias = own
    return weights, bias, field


def total(z: Tensor) -> Tensor:
    """Of each output, (J, 1)."""
    return z.sum(1, keepdim=True)


def sign(positive: Tensor) -> Tensor:
    return 2 * positive.double() - 1


def evenly(field: Tensor) -> Tensor:
    """Shares (J, I); none where an output reads nothing."""
    return field / total(field).clamp(min=1)


def by_share(z: Tensor, field: Tensor, relevance: Tensor) -> Tensor:
    """R_i = Σ_j z_ij / Σ_k z_kj R_j; where the sum is zero, evenly over the receptive field."""
    return relevance @ torch.where(total(z) > TINY, z / total(z), evenly(field))


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
        z = total(w * h) + b[:, None]
        return r @ (w * h / (z + eps * sign(z >= 0)))

    return formula


def z_plus_epsilon(eps, ones=False):
    def formula(w, b, m, h, r):
        z = w.clamp(min=0) * (torch.ones_like(h) if ones else h)
        return r @ (z / (total(z) + eps))

    return formula


def z_plus_bias(eps):
    def formula(w, b, m, h, r):
        z = (w * h).clamp(min=0)
        return r @ (z / (total(z) + b[:, None].clamp(min=0) + eps))

    return formula


def gamma(g, eps):
    def formula(w, b, m, h, r):
        z = torch.cat([w * h, b[:, None]], 1)
        side = sign(total(z) > 0)
        favoured = z + g * (z * side).clamp(min=0) * side
        return r @ (favoured[:, :-1] / (total(favoured) + side * eps))

    return formula


def alpha_beta(alpha, beta, eps):
    def formula(w, b, m, h, r):
        z = torch.cat([w * h, b[:, None]], 1)
        above, below = z.clamp(min=0), z.clamp(max=0)
        share = alpha * above / (total(above) + eps) - beta * below / (total(below) - eps)
        return r @ share[:, :-1]

    return formula


def conserving_alpha_beta(alpha, beta):
    def formula(w, b, m, h, r):
        z = w * h
        above, below = z.clamp(min=0), z.clamp(max=0)
        both = alpha * above / total(above) - beta * below / total(below)
        one = torch.where(z.any(1, keepdim=True), z / total(z), evenly(m))  # where all are of one sign, or zero
        return r @ torch.where(above.any(1, keepdim=True) & below.any(1, keepdim=True), both, one)

    return formula


def conserving_gamma(g):
    def formula(w, b, m, h, r):
        z = w * h
        favoured = z + g * torch.where(total(z) > 0, z.clamp(min=0), z.clamp(max=0))
        return r @ torch.where(total(favoured) != 0, favoured / total(favoured), evenly(m))

    return formula
