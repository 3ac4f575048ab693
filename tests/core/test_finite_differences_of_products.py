"""Derivatives of relevance against finite differences: recurrent layers, attention, products of matrices, gates."""

from __future__ import annotations

import pytest
import torch
from core_slopes import require_slopes
from torch import nn

from relprop.core.composites.presets import attnlrp
from tiny import images

X = images(2).double()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_against_finite_differences(kind):
    class Signal(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.fc = kind(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.layer(x)[0][:, -1])

    torch.manual_seed(0)
    require_slopes(Signal().eval(), torch.randn(2, 5, 3, dtype=torch.float64), target=1)


@pytest.mark.parametrize("composite", [None, attnlrp()], ids=["transformer", "attnlrp"])
def test_attention_against_finite_differences(composite):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True)
            self.embed, self.fc = nn.Linear(3, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.layer(self.embed(x)).mean(1))

    torch.manual_seed(0)
    require_slopes(Attends().eval(), torch.randn(2, 5, 3, dtype=torch.float64), target=1, composite=composite)


class Mixed(nn.Module):
    """Interpolation and products of matrices, whose rules take transposes from `torch.func`; a gate; max pooling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.key, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        h = nn.functional.interpolate(self.conv(x).relu(), scale_factor=1.5, mode="bilinear")
        h = nn.functional.max_pool2d(h, 2)
        values, keys = h.flatten(2), self.key(h).flatten(2)
        mixed = (keys.transpose(1, 2) @ keys).softmax(-1) @ values.transpose(1, 2)
        gate = self.key(h).mean((2, 3)).sigmoid()
        return self.fc(mixed.mean(1) * gate + torch.einsum("bcp->bc", values))


def test_linear_steps_and_gates_against_finite_differences():
    require_slopes(Mixed().eval(), X, target=1)
