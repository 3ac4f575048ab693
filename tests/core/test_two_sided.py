"""Rules by depth, and the composite that weighs what speaks against a class: who gets which, and that it conserves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core_nets import Network, images
from relprop import LRP, paper
from relprop.cifar import cifar_resnet
from relprop.core.capture import capture
from relprop.core.composites.presets import COMPOSITES, two_sided
from relprop.core.rules import depth_dependent, flat, z_plus
from relprop.errors import UsageError

RULE = "α2β1, conserving"


def small(dtype=torch.float32):
    torch.manual_seed(3)
    model = cifar_resnet(8, shortcut="B", width=4).eval().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -0.5, 1.5)  # some turn their channel over
            nn.init.uniform_(module.bias, -0.8, 0.3)
    return model


def chosen(composite):
    graph = capture(small(), torch.zeros(2, 3, 32, 32))
    found = composite.assign(graph)
    return {node.name: found.describe(node) for node in graph.steps if node.op in ("conv", "linear")}


@pytest.mark.parametrize(("depth", "count"), [(1 / 9, 1), (1 / 3, 3), (0.5, 4), (1.0, 8)])
def test_the_last_convolutions_take_the_late_rule(depth, count):
    names = chosen(two_sided(depth=depth))
    assert len(names) == 9 + 1
    assert [rule for rule in names.values() if rule == RULE] == [RULE] * count
    assert [*names.values()].index(RULE) == 9 - count
    assert names["conv1"] == "z+ (ones)"  # the first layer keeps its own, at any depth
    assert names["fc"] == "mean-subtracted"


def test_the_early_rule_is_a_choice_and_depth_is_a_fraction():
    composite = paper().override(rules={"conv": depth_dependent(z_plus, 0.25, flat)})
    assert [*chosen(composite).values()] == ["z+ (ones)", *["flat"] * 6, *["z+"] * 2, "z+"]
    for depth in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"above 0 and up to 1, not {depth}"):
            depth_dependent(z_plus, depth)
        with pytest.raises(UsageError, match=f"above 0 and up to 1, not {depth}"):
            two_sided(depth=depth)
    with pytest.raises(UsageError, match="late must be one of alpha2-beta1, gamma, not 'beta'"):
        COMPOSITES.build("two-sided:late=beta")


@pytest.mark.parametrize("late", ["alpha2-beta1", "gamma"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("depth", [1 / 3, 1.0])
def test_it_conserves_and_absorbs_nothing(late, dtype, bound, depth):
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = LRP(small(dtype), two_sided(late=late, depth=depth))(x, target=torch.tensor([0, 3, 9]))
    assert result.ledger.gap <= bound
    assert result.ledger.absorbed == 0
    assert (result.relevance < 0).any()


@pytest.mark.parametrize("block", ["Basic", "Bottleneck", "Dense", "Nested"])
def test_it_conserves_on_other_blocks(block):
    result = LRP(Network([block, block]).eval().double(), two_sided(depth=1.0))(images(2))
    assert result.ledger.gap <= 1e-12
    assert result.ledger.absorbed == 0
