"""RISE: what the class scores behind random masks (Petsiuk et al. 2018, arXiv 1806.07421)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.capture import Model, last_step
from relprop.core.targets.start import probabilities_of
from relprop.errors import UsageError
from relprop.explainers.base import EXPLAINERS, prepare, quiet


@EXPLAINERS.register("rise")
@dataclass(frozen=True)
class Rise:
    """Mean of random masks, each weighted by the class's probability for the picture seen through it.

    A mask is a grid of ones (with probability `p`) and zeros, enlarged bilinearly and shifted by less than a cell. Zero
    is the network's own: the mean colour, where inputs are normalised. Masks depend on the seed and the size alone.
    """

    masks: int = 4000  # how many; the authors take 4,000 for VGG16 and 8,000 for ResNet-50
    grid: int = 7  # cells a side
    p: float = 0.5  # probability of a one
    seed: int = 0  # of the masks
    batch: int = 64  # masked pictures at once
    amp: bool = False  # run them in bfloat16

    def __post_init__(self) -> None:
        if self.masks < 1 or self.grid < 1 or not 0 < self.p < 1:
            raise UsageError(
                f"rise needs at least one mask and one cell, and p between 0 and 1; not masks={self.masks}, "
                f"grid={self.grid}, p={self.p}"
            )

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        twin, x, target = prepare(model, x, target)
        end = last_step(twin, x[:1])
        found = torch.zeros(len(x), *x.shape[-2:], device=x.device)
        draw = torch.Generator().manual_seed(self.seed)
        with quiet(), torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            for start in range(0, self.masks, self.batch):
                count = min(self.batch, self.masks - start)
                masks = random_masks(count, self.grid, self.p, (x.shape[-2], x.shape[-1]), draw).to(x.device)
                for at, (one, label) in enumerate(zip(x, target.tolist(), strict=True)):
                    scores = probabilities_of(twin(one * masks[:, None]).float(), end)[:, label]
                    found[at] += torch.einsum("k,khw->hw", scores, masks)
        return found / (self.masks * self.p)


def random_masks(count: int, grid: int, p: float, size: tuple[int, int], draw: torch.Generator) -> Tensor:
    """Draw masks (count, H, W) in [0, 1]: a grid one cell larger than the picture, cut out at a random position."""
    cells = [-(-side // grid) for side in size]
    coarse = (torch.rand(count, 1, grid, grid, generator=draw) < p).float()
    large = [(grid + 1) * cell for cell in cells]
    smooth = F.interpolate(coarse, large, mode="bilinear", align_corners=False)[:, 0]
    rows, columns = (
        torch.randint(cell, (count, 1), generator=draw) + torch.arange(side)
        for cell, side in zip(cells, size, strict=True)
    )
    return smooth[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
