"""Masking curves: the model's score while pixels appear (insertion) or vanish (deletion).

Speed comes from three things. Pictures are made on the model's device, for many steps, samples and heatmaps at once.
Equal pictures are made and scored once: after Heat Quantization a curve of 101 steps has about 8 different pictures,
and the blank and the whole picture belong to every curve of a sample. And a batch is as large as fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.metrics.base import Inputs
from relprop.metrics.forward import Forward
from relprop.metrics.masking import TiePolicy, fill_picture, pixel_counts, row_major, schedule, shuffled, together
from relprop.metrics.protocols import Protocol
from relprop.seeding import fingerprint


@dataclass(frozen=True, eq=False)
class Curves:
    """Scores along the way; `expected` curves are means over random orders."""

    at: Tensor  # (K,) where the points lie, fraction of pixels changed; without end points the number of the step
    insertion: Tensor  # (..., N, K) score after these pixels appeared on the fill
    deletion: Tensor  # (..., N, K) score after they vanished into it
    pictures: int  # how many different pictures the model saw

    def values(self) -> dict[str, Tensor]:
        """Area under insertion and deletion, and their difference `id`, each (..., N): trapezoids over the width."""
        insertion, deletion = area(self.insertion, self.at), area(self.deletion, self.at)
        return {"insertion": insertion, "deletion": deletion, "id": insertion - deletion}


def area(curve: Tensor, at: Tensor) -> Tensor:
    """Trapezoidal mean of `curve` (..., K) over `at` (K,): in the range of the scores. One point is its own mean."""
    if curve.shape[-1] == 1:
        return curve[..., 0]
    return torch.trapezoid(curve, at.to(curve), dim=-1) / (at[-1] - at[0]).to(curve)


def masking_curves(inputs: Inputs, classes: Tensor, protocol: Protocol, forward: Forward) -> Curves:
    """Insertion and deletion curves of heatmaps (..., N, H, W) for inputs (N, C, H, W).

    Stack several heatmaps of the same inputs in front (post-processings, explainers) to share what they have in common.

    Args:
        inputs: model, inputs, heatmaps (of which the order of pixels decides and nothing else), and what black is.
        classes: (N,) whose score is recorded.
        protocol: all choices.
        forward: how to run the model.
    """
    x, heatmap = inputs.x, inputs.heatmap
    maps = heatmap.reshape(-1, *x.shape[-2:])
    owner = torch.arange(len(x), device=x.device).repeat(len(maps) // len(x))
    counts = pixel_counts(maps[0].numel(), protocol.pixels_a_step(*x.shape[-2:]))
    steps = torch.stack([schedule(maps, counts, ties) for ties in _policies(protocol, x, owner)])  # (S, R, H, W)
    given = {"preprocess": inputs.preprocess, "black": inputs.black}
    fill = fill_picture(protocol.fill, x, **given, seed=protocol.seed).expand(x.shape)
    first = 0 if protocol.ends else 1
    plan = _distinct(steps.flatten(0, 1).flatten(1), owner.repeat(len(steps)), len(counts), first)
    pictures = _pictures(x, fill, steps.flatten(0, 1), plan)
    values = forward.scores(inputs.model, pictures, classes[plan.owner], x, logit=protocol.score == "logit")
    curves = values[plan.which].view(len(steps), *heatmap.shape[:-2], 2, -1).mean(0)
    fractions = torch.cat([counts.new_zeros(1), counts])[first:].double() / counts[-1]
    # without end points as released: every recorded point counts as one step, the last, shorter one too
    at = fractions if protocol.ends else torch.arange(len(counts), dtype=torch.float64)
    return Curves(at.to(x.device), curves[..., 0, :], curves[..., 1, :], len(plan.row))


def _policies(protocol: Protocol, x: Tensor, owner: Tensor) -> list[TiePolicy]:
    """The orders to run: one, or for "expected" many random ones."""
    if protocol.ties == "together":
        return [together]
    if protocol.ties == "row-major":
        return [row_major]
    rounds = protocol.shuffles if protocol.ties == "expected" else 1
    return [shuffled(fingerprint(x, protocol.seed * rounds + k)[owner]) for k in range(rounds)]


@dataclass(frozen=True, eq=False)
class _Distinct:
    """The different pictures among all, and which of them each point of each curve shows.

    Attributes:
        row, step: (J,) picture j changes the pixels of schedule `row` up to `step`;
        inserts: (J,) whether it shows them (insertion), or all others (deletion).
        owner: (J,) whose picture it is.
        which: (R, 2, K) the picture at each point of insertion and deletion.
    """

    row: Tensor
    step: Tensor
    inserts: Tensor
    owner: Tensor
    which: Tensor


def _distinct(steps: Tensor, owner: Tensor, last: int, first: int) -> _Distinct:
    """Find equal pictures without making any: (R, P) schedules, (R,) owners, steps `first` to `last`.

    A picture is the set of pixels it shows. Each pixel has a random 64-bit number; a set's code is the sum of its
    pixels' numbers, modulo 2^64 (Zobrist hashing), so the codes of a curve are one cumulative sum. Different sets
    share a code with probability 2^-64: a million pictures of one sample, with less than 1 in 10 million.
    """
    seeds = torch.Generator().manual_seed(0)
    code = torch.randint(-(1 << 63), (1 << 63) - 1, (steps.shape[1],), generator=seeds).to(steps.device)
    gained = torch.zeros(len(steps), last + 1, dtype=torch.int64, device=steps.device)
    shown = gained.scatter_add_(1, steps, code.expand_as(steps)).cumsum(1)
    sets = torch.stack([shown, shown[:, -1:] - shown], 1)[..., first:]  # (R, 2, K): insertion, deletion
    tagged = torch.stack([owner[:, None, None].expand_as(sets), sets], -1).flatten(0, 2)
    unique, which = torch.unique(tagged, dim=0, return_inverse=True)
    everywhere = torch.arange(len(tagged), device=steps.device)
    found = torch.full((len(unique),), len(tagged), device=steps.device).scatter_reduce_(0, which, everywhere, "amin")
    row, rest = found // (sets.shape[1] * sets.shape[2]), found % (sets.shape[1] * sets.shape[2])
    step = rest % sets.shape[2] + first
    return _Distinct(row, step, rest < sets.shape[2], unique[:, 0], which.view(sets.shape))


def _pictures(x: Tensor, fill: Tensor, steps: Tensor, plan: _Distinct) -> Callable[[int, int], Tensor]:
    """Return what makes the different pictures numbered start to stop, (stop - start, C, H, W)."""
    steps = steps.to(torch.int32)  # a third of the traffic of what follows is this

    def pictures(start: int, stop: int) -> Tensor:
        at = slice(start, stop)
        changed = steps[plan.row[at]] <= plan.step[at, None, None]
        shows = changed == plan.inserts[at, None, None]
        owner = plan.owner[at]
        return torch.where(shows[:, None], x[owner], fill[owner])

    return pictures
