"""TorchScript of attention is explained as the model in Python that it was made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import relprop
from core_scripted import images, require_same, scripted


class Attention(nn.Module):
    """A transformer of one block on patches, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), h], 1)
        normed = self.norm1(h)
        h = h + self.attention(normed, normed, normed, need_weights=False)[0]
        h = h + self.mlp(self.norm2(h))
        return self.head(h[:, 0])


@pytest.mark.parametrize("kind", ["trace", "script"])
def test_scripted_attention(kind):
    torch.manual_seed(0)
    net, x = Attention().double().eval(), images(1, 16).double()
    require_same(relprop.explain(scripted(net, x, kind), x), relprop.explain(net, x))
