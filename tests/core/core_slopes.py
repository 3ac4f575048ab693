"""Derivatives of relevance against finite differences."""

from __future__ import annotations

import torch

import relprop

TOLERANCE = 1e-5


def slopes(model, x, parameters, **options):
    """Along a random direction of all parameters together: (by finite differences, by autograd).

    The loss is a random weighted sum of relevance, score and logits. Relevance is smooth in pieces, as a ReLU is: one
    of four directions has to agree, since a step may lead over an edge.
    """
    start, composite = options.pop("start", "logit"), options.pop("composite", None)
    generator = torch.Generator().manual_seed(0)

    def weights_like(value):
        return torch.randn(value.shape, generator=generator, dtype=torch.float64)

    lrp = relprop.LRP(model, composite, differentiable=True)
    result = lrp(x, start=start, **options)
    weights = [weights_like(value) for value in (result.relevance, result.score, result.logits)]

    def loss_of(result):
        parts = (result.relevance, result.score, result.logits)
        return sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))

    gradients = torch.autograd.grad(loss_of(result), parameters, allow_unused=True)
    found = []
    for _ in range(4):
        directions = [weights_like(p) * p.detach().abs().mean() for p in parameters]
        analytic = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(sign * 1e-6 * d)
                values.append(float(loss_of(lrp(x, start=start, **options))))
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(1e-6 * d)
        numeric = (values[0] - values[1]) / 2e-6
        found.append((abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-3), numeric, analytic))
        if found[-1][0] < TOLERANCE:
            break
    assert all(abs(numeric) > 1e-9 for _, numeric, _ in found), "the loss must depend on the weights"
    return min(found)


def require_slopes(model, x, **options):
    """Derivatives with respect to all weights and the input together agree with finite differences."""
    model, x = model.double(), x.clone().requires_grad_()
    off, numeric, analytic = slopes(model, x, [*model.parameters(), x], **options)
    assert off < TOLERANCE, f"finite differences give {numeric}, autograd {analytic}"
