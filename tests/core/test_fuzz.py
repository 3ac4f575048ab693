"""Two hundred small random networks under every composite, in float64: no rule that must conserve leaks."""

from __future__ import annotations

import pytest
import torch
from core_random import CLASSES, Random

import relprop
from relprop.core.composites.presets import COMPOSITES

FIRST, NETWORKS, TOGETHER = 0, 200, 10
EXACT = 1e-12

CONSERVING = (
    "paper",
    "paper:identity=false:first=image:max_pool=average:batch_norm=fold",
    "paper:split=symmetric:first=image",
    "paper:split=symmetric:identity=false:max_pool=average:batch_norm=fold",
    "paper:split=signed",
    "paper:classifier=mean-subtracted",
    "two-sided:late=gamma:classifier=contrast",
    "transformer",
    "two-sided",
    "two-sided:late=gamma:depth=1:split=symmetric:first=image",
    "two-sided:depth=0.5:classifier=z+:batch_norm=pass",
)
"""No rule of these absorbs anything: what arrives at the image is the score, but for what only constants excited."""

ABSORBING = (
    "paper:classifier=epsilon",
    "original",
    "epsilon",
    "gamma",
    "epsilon-plus-flat",
    "epsilon-gamma-box:low=-3:high=3",
    "epsilon-alpha2-beta1-flat",
    "attnlrp",
)
"""Their weighted layers absorb, as the ledger itemises; splits, pooling and what merely moves values may not leak."""


def explained(seed: int, specs: tuple[str, ...]) -> tuple[Random, tuple[relprop.Relevance, ...]]:
    net = Random(seed)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=draw).clamp(-3, 3)
    target = [seed % CLASSES, (seed + 1) % CLASSES]
    return net, relprop.LRP(net).explain_each(x, [COMPOSITES.build(spec) for spec in specs], target)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(at, at + TOGETHER) for at in range(FIRST, FIRST + NETWORKS, TOGETHER)])
def test_random_networks_leak_nothing(seeds):
    for seed in seeds:
        print(f"seed {seed}")  # noqa: T201 - shown where a test fails
        net, results = explained(seed, CONSERVING + ABSORBING)
        for spec, result in zip(CONSERVING + ABSORBING, results, strict=True):
            ledger = result.ledger
            assert ledger.gap <= EXACT, f"seed {seed}, {spec}: {ledger.gap:.1e}; {net.words}\n{ledger.table('step')}"
            if spec in CONSERVING:
                assert all(entry.conserves for entry in ledger.entries)
            scale = torch.stack([entry.magnitude for entry in ledger.entries]).amax(0)
            missing = ledger.start - ledger.absorptions.sum(0) - ledger.end
            assert (missing.abs() / scale).max() <= EXACT, f"seed {seed}, {spec}: {net.words}"


def test_an_ensemble_stacked_before_the_batch_leaks_nothing():
    """All members speak against class 3, so that the mean over them shares evenly among them."""
    torch.manual_seed(0)
    net = Members().double().eval()
    with torch.no_grad():
        for member in net.members:
            member.bias[3] = -5.0
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    result = relprop.LRP(net, keep="all")(x, target=3)
    assert result.ledger.gap <= EXACT
    (stacked,) = [value for (name, side), value in result.kept.items() if name == "stack" and side == "output"]
    assert torch.allclose(stacked[..., 3], (result.score / 3).expand(3, 2))


class Members(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(torch.nn.Linear(3, 4) for _ in range(3))

    def forward(self, x):
        return torch.stack([member(x.mean((2, 3))) for member in self.members]).mean(0)


@pytest.mark.parametrize("spec", ["epsilon-plus-flat", "epsilon-alpha2-beta1-flat"])
def test_flat_where_the_image_is_read_twice(spec):
    """Relevance of the two readings adds up, though the flat rule gives one number for all channels."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 3, 3, padding=1, dtype=torch.float64)
    fc = torch.nn.Linear(3, 3, dtype=torch.float64)
    net = Twice(conv, fc).eval()
    result = relprop.LRP(net, COMPOSITES.build(spec))(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert result.ledger.gap <= EXACT
    assert torch.allclose(result.relevance.flatten(1).sum(1), result.ledger.end)


class Twice(torch.nn.Module):
    def __init__(self, conv, fc) -> None:
        super().__init__()
        self.conv, self.fc = conv, fc

    def forward(self, x):
        return self.fc((x + self.conv(x)).mean((2, 3)))
