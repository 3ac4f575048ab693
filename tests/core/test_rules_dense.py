"""Rules against the slow formulas of `core_dense`, over every kind of weighted layer, in float64."""

from __future__ import annotations

import pytest
import torch
from core_through import inject
from torch import nn

import core_dense as slow
import relprop
from relprop.core import rules

# torch says so itself, once, of the layers below
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

#: layer and the shape of its input for one sample
LAYERS = [
    (nn.Linear(6, 5), (6,)),
    (nn.Linear(6, 5, bias=False), (6,)),
    (nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    (nn.Conv1d(2, 2, 4, padding="same", bias=False), (2, 6)),
    (nn.Conv1d(2, 4, 3, stride=2, dilation=2, padding=2, groups=2), (2, 9)),
    (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 5)),
    (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 5, 4)),
    (nn.Conv2d(4, 2, (1, 2), stride=(2, 1), groups=2, bias=False), (4, 4, 3)),
    (nn.Conv2d(2, 2, (2, 4), padding="same"), (2, 4, 5)),
    (nn.Conv2d(2, 2, 2, padding="same", dilation=3), (2, 4, 4)),
    (nn.Conv2d(2, 2, 3, padding="valid"), (2, 4, 4)),
    (nn.Conv2d(2, 2, 1, padding=1), (2, 3, 3)),
    (nn.Conv2d(1, 2, 2, stride=3), (1, 5, 5)),
    (nn.Conv3d(2, 2, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0)), (2, 3, 4, 2)),
    (nn.Conv3d(2, 2, 2, padding="same", groups=2), (2, 2, 3, 2)),
    (nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4)),
    (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), (2, 3, 3)),
    (nn.ConvTranspose2d(2, 2, 2, stride=3, output_padding=1, bias=False), (2, 2, 2)),
    (nn.ConvTranspose2d(2, 2, 2, dilation=2), (2, 3, 3)),
    (nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 2, 1, 2)),
]
RULES = {
    "z+": (rules.z_plus, slow.z_plus),
    "z+ ones": (rules.z_plus_ones, slow.z_plus_ones),
    "flat": (rules.flat, slow.flat),
    "w2": (rules.w_square, slow.w_square),
    "epsilon": (rules.epsilon(0.1), slow.epsilon(0.1)),
    "gamma": (rules.gamma(0.25, 1e-3), slow.gamma(0.25, 1e-3)),
    "alpha2-beta1": (rules.alpha_beta(2, 1, 1e-3), slow.alpha_beta(2, 1, 1e-3)),
    "alpha1-beta0": (rules.alpha_beta(1, 0, 1e-3), slow.alpha_beta(1, 0, 1e-3)),
    "alpha2-beta1, conserving": (rules.conserving_alpha_beta(2, 1), slow.conserving_alpha_beta(2, 1)),
    "alpha1-beta0, conserving": (rules.conserving_alpha_beta(1, 0), slow.conserving_alpha_beta(1, 0)),
    "gamma, conserving": (rules.conserving_gamma(0.25), slow.conserving_gamma(0.25)),
    "z-box": (rules.z_box(-3.5, 3.0), slow.z_box(-3.5, 3.0)),
    "released": (rules.z_plus_epsilon(1e-2), slow.z_plus_epsilon(1e-2)),
    "released ones": (rules.z_plus_epsilon(1e-2, ones=True), slow.z_plus_epsilon(1e-2, ones=True)),
    "z+ with bias": (rules.z_plus_bias(1e-3), slow.z_plus_bias(1e-3)),
}


class Fan(nn.Module):
    """Every layer side by side, each on its own piece of one flat input, so that one capture serves all."""

    def __init__(self, positive: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.positive = positive
        self.shapes = [shape for _, shape in LAYERS]
        self.layers = nn.ModuleList(layer.double() for layer, _ in LAYERS)
        for layer in self.layers:
            for parameter in layer.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            layer.weight.data.select(0, 0).abs_().neg_()  # outputs that no positive input excites
            layer.weight.data.flatten()[-1] = 0.0
        sizes = [layer(torch.zeros(1, *shape).double()).numel() for layer, shape in LAYERS]
        self.heads = nn.ModuleList(nn.Linear(size, 2).double() for size in sizes)

    def forward(self, x):
        if self.positive:
            x = torch.relu(x)
        pieces = x.split([torch.Size(shape).numel() for shape in self.shapes], dim=1)
        scores = [
            head(layer(piece.reshape(-1, *shape)).flatten(1))
            for piece, shape, layer, head in zip(pieces, self.shapes, self.layers, self.heads, strict=True)
        ]
        return torch.stack(scores, 1).sum(1)


@pytest.fixture(scope="module", params=[False, True], ids=["mixed", "nonnegative"])
def fan(request):
    net = Fan(request.param).eval()
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, sum(torch.Size(shape).numel() for shape in net.shapes), generator=generator).double()
    x = x.clamp(-3, 3)
    x[0, ::3] = 0.0
    relevance = [
        torch.randn(2, layer(torch.zeros(1, *shape).double()).numel(), generator=generator).double()
        for layer, shape in zip(net.layers, net.shapes, strict=True)
    ]
    matrices = [slow.dense(layer, shape) for layer, shape in zip(net.layers, net.shapes, strict=True)]
    heads = {f"heads.{k}": inject(r) for k, r in enumerate(relevance)}
    composites = [
        relprop.paper().override(names={**{f"layers.{k}": fast for k in range(len(LAYERS))}, **heads})
        for fast, _ in RULES.values()
    ]
    results = relprop.LRP(net).explain_each(x, composites, target=1)
    return net, x, relevance, matrices, dict(zip(RULES, results, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_rule_equals_its_dense_formula(fan, name):
    net, x, relevance, matrices, results = fan
    found, formula = results[name].relevance, RULES[name][1]
    inputs = x.clamp(min=0) if net.positive else x
    sizes = [torch.Size(shape).numel() for shape in net.shapes]
    pieces = zip(found.split(sizes, 1), inputs.split(sizes, 1), relevance, matrices, LAYERS, strict=True)
    for ours, h, r, (weight, bias, field), (layer, _) in pieces:
        theirs = torch.stack([formula(weight, bias, field, h[n], r[n]) for n in range(2)])
        # relative to all that passes, since signed relevance cancels
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)
        assert error < 1e-10, f"{name} at {layer}"


def test_some_units_of_the_layers_above_are_dead(fan):
    """Or else the even shares were not tested."""
    net, x, _, matrices, _ = fan
    sizes = [torch.Size(shape).numel() for shape in net.shapes]
    inputs = x.clamp(min=0) if net.positive else x
    dead = [
        bool((((w * h[0]).clamp(min=0).sum(1) == 0) & m.any(1)).any())
        for h, (w, _, m) in zip(inputs.split(sizes, 1), matrices, strict=True)
    ]
    assert sum(dead) >= (15 if net.positive else 3)
