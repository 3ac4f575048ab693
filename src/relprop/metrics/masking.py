"""In which order pixels change: schedules, ties, and what stands in a pixel's place.

Insertion and deletion are two pure pieces. `schedule` says at which step each pixel changes; the picture at step t is
`where(schedule <= t, x, fill)` for insertion, `where(schedule <= t, fill, x)` for deletion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UsageError
from relprop.seeding import fingerprint, generators

TiePolicy = Callable[[Tensor, Tensor], Tensor]
"""(values (N, P), counts (K,)) -> step in 1..K of each pixel, (N, P) int64."""

Fill = Literal["black", "blur", "mean", "noise"]


def pixel_counts(pixels: int, step: float) -> Tensor:
    """How many of `pixels` have changed after each step: (K,) int64, the last being all of them.

    Args:
        pixels: H · W.
        step: pixels a step; below 1, a fraction of them.

    Raises:
        UsageError: not positive.
    """
    if not step > 0 or math.isinf(step):
        raise UsageError(f"step must be a positive number of pixels, or a fraction of them below 1; not {step}")
    size = max(1, round(step * pixels if step < 1 else step))
    return torch.arange(size, pixels + size, size).clamp(max=pixels)


def schedule(heatmap: Tensor, counts: Tensor, ties: TiePolicy) -> Tensor:
    """Step in 1..K at which each pixel changes, most relevant first: (N, H, W) -> (N, H, W) int64.

    Quantized heatmaps are mostly ties, so `ties` is required.

    Args:
        heatmap: (N, H, W), finite.
        counts: (K,) how many pixels have changed after each step, ascending to H · W (`pixel_counts`).
        ties: `together`, `row_major` or `shuffled(keys)`.
    """
    return ties(heatmap.flatten(1), counts.to(heatmap.device)).view_as(heatmap)


def together(values: Tensor, counts: Tensor) -> Tensor:
    """Pixels of one value change together, as released: each step is a threshold.

    Step k's threshold is the value at rank `counts[k]`, counted from 0 and capped at the last; every pixel at or above
    it has changed. So a step changes at least one pixel more than its count, and many more where values are tied.
    """
    ranked = values.sort(dim=1, descending=True).values
    thresholds = ranked[:, counts.clamp(max=values.shape[1] - 1)]
    # thresholds fall from step to step: a pixel waits for as many steps as have a threshold above it
    return torch.searchsorted((-thresholds).contiguous(), -values, right=False) + 1


def row_major(values: Tensor, counts: Tensor) -> Tensor:
    """Step k has changed exactly `counts[k]` pixels; of one value, those above and to the left come first."""
    return _steps(values.argsort(dim=1, descending=True, stable=True), counts)


def shuffled(keys: Tensor) -> TiePolicy:
    """Step k has changed exactly `counts[k]` pixels; pixels of one value come in random order.

    Args:
        keys: (N,) int64, one for each heatmap; equal keys give equal orders (`relprop.seeding.fingerprint`).
    """

    def policy(values: Tensor, counts: Tensor) -> Tensor:
        drawn = [torch.randperm(values.shape[1], generator=each) for each in generators(keys)]
        order = torch.stack(drawn).to(values.device)
        ranked = values.gather(1, order).argsort(dim=1, descending=True, stable=True)
        return _steps(order.gather(1, ranked), counts)

    return policy


def _steps(order: Tensor, counts: Tensor) -> Tensor:
    """From pixels in the order of their change (N, P) to the step of each pixel (N, P)."""
    rank = torch.arange(order.shape[1], device=order.device)
    step_of_rank = torch.searchsorted(counts, rank, right=True) + 1
    return torch.empty_like(order).scatter_(1, order, step_of_rank.expand_as(order))


def fill_picture(
    kind: Fill, x: Tensor, *, preprocess: Any = None, black: Tensor | None = None, seed: int = 0
) -> Tensor:
    """What stands where a pixel is removed, in the network's own units: broadcastable to x (N, C, H, W).

    Args:
        kind: "black": 0 in [0, 1] colour space, then normalised, as released; "blur": the picture through a Gaussian
            of a tenth of its side; "mean": its mean colour; "noise": uniform random colours, drawn from its content.
        x: (N, C, H, W), normalised.
        preprocess: has `normalize`, which says what black and noise are in the network's units.
        black: the same for black alone: broadcastable to `x`.
        seed: of the noise.

    Raises:
        UsageError: "black" or "noise", and nobody said how colours are normalised.
    """
    if kind == "blur":
        return _blur(x, max(x.shape[-2:]) / 10)
    if kind == "mean":
        return x.mean((2, 3), keepdim=True)
    if kind == "black" and black is not None:
        return _broadcastable(black, x)
    if kind not in ("black", "noise"):
        raise UsageError(f"fill must be black, blur, mean or noise, not {kind!r}")
    if preprocess is None:
        raise UsageError(
            f"a {kind} fill is a colour in [0, 1], and this network may want it normalised; pass preprocess=... (it "
            f"has normalize), {'black=tensor, ' if kind == 'black' else ''}or a fill that needs none: blur or mean"
        )
    if kind == "black":
        return preprocess.normalize(torch.zeros_like(x[0, :, :1, :1]))[None]  # type: ignore[no-any-return]
    drawn = [torch.rand(x.shape[1:], generator=each) for each in generators(fingerprint(x, seed))]
    return preprocess.normalize(torch.stack(drawn).to(x))  # type: ignore[no-any-return]


def _broadcastable(black: Tensor, x: Tensor) -> Tensor:
    fill = torch.as_tensor(black).to(x)
    if fill.dim() == 1:
        fill = fill.view(-1, 1, 1)
    fill = fill if fill.dim() == 4 else fill[None]
    try:
        fill.expand_as(x)
    except RuntimeError:
        raise UsageError(f"black has shape {tuple(black.shape)}, which does not fit inputs {tuple(x.shape)}") from None
    return fill


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Convolve (N, C, H, W) with a Gaussian of `sigma` pixels, side by side; outside, the picture is mirrored."""
    for side in (2, 3):
        reach = min(math.ceil(3 * sigma), x.shape[side] - 1)
        distance = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-(distance**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, *((-1, 1) if side == 2 else (1, -1)))
        padding = (0, 0, reach, reach) if side == 2 else (reach, reach, 0, 0)
        mirrored = F.pad(x, padding, mode="reflect")
        x = F.conv2d(mirrored, kernel.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])
    return x
