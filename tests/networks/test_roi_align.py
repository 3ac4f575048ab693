"""RoI align by hand, and by a slow twin."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn, tensor

import relprop

pytest.importorskip("torchvision")

from torchvision.ops import roi_align


class Align(nn.Module):
    def __init__(self, boxes: Tensor, size: int, scale: float = 1.0, samples: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.boxes, self.size = boxes, size
        self.options = {"spatial_scale": scale, "sampling_ratio": samples, "aligned": aligned}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return roi_align(x, [self.boxes], self.size, **self.options)


def test_roi_align_by_hand():
    """One sample in the middle of four values, 1, 3, 0 and -2: weights of a quarter, so R is shared as 1 : 3."""
    x = tensor([[[[1.0, 3.0], [0.0, -2.0]]]]).double()
    model = Align(tensor([[0.0, 0.0, 1.0, 1.0]]).double(), 1, samples=1)
    assert model(x).item() == 0.5
    result = relprop.explain(model, x, start=tensor([[[[8.0]]]]).double())
    assert result.relevance.tolist() == [[[[2.0, 6.0], [0.0, 0.0]]]]
    nothing = relprop.explain(model, -x.abs(), start=tensor([[[[8.0]]]]).double())
    assert nothing.relevance.tolist() == [[[[2.0, 2.0], [2.0, 2.0]]]]


def weights_by_loops(boxes: Tensor, height: int, width: int, model: Align) -> Tensor:
    """(K, cells, cells, H, W): what each cell averages, sample by sample (He et al. 2017, section 3)."""
    found = torch.zeros(len(boxes), model.size, model.size, height, width, dtype=torch.float64)
    scale, count, aligned = (model.options[key] for key in ("spatial_scale", "sampling_ratio", "aligned"))
    offset = 0.5 if aligned else 0.0
    for k, box in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (corner * scale - offset for corner in box)
        sides = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        step = [side / model.size for side in sides]
        for row, column in itertools.product(range(model.size), repeat=2):
            for i, j in itertools.product(range(count), repeat=2):
                y = y1 + (row + (i + 0.5) / count) * step[0]
                x = x1 + (column + (j + 0.5) / count) * step[1]
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
                for a, b in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
                    weight = max(0.0, 1 - abs(y - a)) * max(0.0, 1 - abs(x - b))
                    if weight:
                        found[k, row, column, a, b] += weight / count**2
    return found


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_equals_a_slow_twin(aligned):
    boxes = tensor([[0.0, 0.0, 14.0, 10.0], [3.3, 2.1, 9.7, 12.4], [5.0, 5.0, 5.5, 5.2], [8.0, -40.0, 30.0, 26.0]])
    model = Align(boxes.double(), 3, scale=0.5, samples=2, aligned=aligned)
    x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    start = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    weights = weights_by_loops(boxes, 6, 8, model)
    torch.testing.assert_close(model(x), torch.einsum("kabhw,chw->kcab", weights, x[0]), rtol=1e-6, atol=1e-6)
    expected = torch.zeros_like(x)
    for k, c, a, b in itertools.product(range(4), range(2), range(3), range(3)):
        parts = weights[k, a, b] * x[0, c].clamp(min=0)
        parts = parts if parts.sum() > 0 else weights[k, a, b]
        if parts.sum() > 0:
            expected[0, c] += start[k, c, a, b] * parts / parts.sum()
    outside = start[(weights.sum((3, 4)) == 0)[:, None].expand_as(start)].sum()
    assert outside > 0  # the last box begins above the map
    result = relprop.LRP(Whole(model))(x, start=start[None])
    torch.testing.assert_close(result.relevance, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(result.score - result.relevance.sum(), outside[None], rtol=1e-6, atol=1e-7)
    assert result.ledger.gap < 1e-12


class Whole(nn.Module):
    """One image's boxes as one output, (1, K, C, h, w)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[None]
