"""What is known of torchvision's networks: joins of a ResNet, derivatives, transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from core_resnet import Bottleneck, ResNet, with_statistics
from relprop.core.capture import capture
from relprop.core.graph.joins import find_joins

torchvision = pytest.importorskip("torchvision")


@pytest.mark.parametrize(
    ("ours", "name", "options"),
    [
        (ResNet(64, (1, 2, 1, 1), 7), "BasicBlock", {}),
        (ResNet(64, (1, 2, 1, 1), 7, Bottleneck), "Bottleneck", {"groups": 4, "width_per_group": 16}),
    ],
    ids=["basic", "bottleneck"],
)
def test_the_resnet_of_the_tests_is_that_of_torchvision(ours, name, options):
    resnet = torchvision.models.resnet
    theirs = resnet.ResNet(getattr(resnet, name), [1, 2, 1, 1], num_classes=7, **options)
    theirs.load_state_dict(with_statistics(ours).state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(theirs.eval()(x), ours(x))


def test_resnet50_has_its_sixteen_joins_four_of_them_projections():
    resnet = torchvision.models.resnet
    net = resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], width_per_group=8)  # ResNet-50, but narrower
    graph = capture(net.eval(), torch.zeros(2, 3, 32, 32))
    joins = find_joins(graph)
    assert len(joins) == 16
    assert all(sum(join.skips) == 1 for join in joins.values())
    projections = [graph.nodes[j.node].name for j in joins.values() if not any(j.identities)]
    assert projections == [f"layer{k}.0.add" for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("name", "options"),
    [("mobilenet_v3_small", {"width_mult": 0.25}), pytest.param("resnet18", {}, marks=pytest.mark.slow)],
)
def test_torchvision_networks_have_gradients_without_nan(name, options):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=4, **options).eval()
    relprop.LRP(model, differentiable=True)(torch.rand(1, 3, 64, 64), 1).relevance.abs().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


def small_vit() -> nn.Module:
    net = torchvision.models.VisionTransformer(16, 4, 2, 2, 12, 16, num_classes=5)
    nn.init.normal_(net.heads.head.weight)
    return net


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([2, 2], 8, [2], [2], [4, 4], num_classes=5)


@pytest.mark.parametrize("make", [small_vit, small_swin])
def test_transformers_balance_and_batches_equal_singles(make):
    torch.manual_seed(0)
    net = make().eval()
    x = torch.randn(3, 3, 16, 16)
    lrp = relprop.LRP(net)
    together = lrp(x)
    assert together.ledger.gap <= 1e-5
    assert together.ledger.absorbed == 0  # the class token takes no part before the first block, and so keeps nothing
    alone = lrp(x[2:], target=together.target[2:])
    torch.testing.assert_close(alone.relevance[0], together.relevance[2], rtol=1e-4, atol=1e-7)
    for n in range(3):  # the books of each image are its own, also where windows share its dimension
        assert together.ledger.end[n].item() == pytest.approx(together.score[n].item(), rel=1e-5)
    double = relprop.explain(net.double(), x.double())
    assert double.ledger.gap <= 1e-12
