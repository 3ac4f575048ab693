"""The rule that contrasts a class with its competitors: closed form, slow reference, edges, and whole networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from core_nets import Network, images
from relprop import LRP, paper
from relprop.core.composites.presets import two_sided
from relprop.core.rules.contrast import competitors
from relprop.core.targets import Contrast

W = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
H = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def explain(weight, x, target, **options):
    layer = nn.Linear(weight.shape[1], len(weight), bias=False).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    composite = paper(first="image").override(rules={"linear": paper(classifier="contrast").classifier}, first=None)
    return LRP(nn.Sequential(layer).eval(), composite.override(classifier=composite.rules["linear"]))(
        x, target=target, start="logit", **options
    )


def slow(weight, x, target, held):
    """One image, one class, with Python's numbers."""
    classes, inputs = range(len(weight)), range(len(x))
    z = [sum(float(weight[k][i]) * float(x[i]) for i in inputs) for k in classes]
    others = [k for k in classes if k != target]
    mean = sum(z[k] for k in others) / len(others)
    spread = math.sqrt(sum((z[k] - mean) ** 2 for k in others) / len(others))
    weights = {k: math.exp((z[k] - max(z[o] for o in others)) / spread) if spread else 1.0 for k in others}
    total = sum(weights.values())
    d = [
        (float(weight[target][i]) - sum(weights[k] / total * float(weight[k][i]) for k in others)) * float(x[i])
        for i in inputs
    ]
    plus, minus = sum(v for v in d if v > 0), sum(v for v in d if v < 0)
    share = -minus / (plus + minus) if plus + minus > 0 else math.inf
    beta = min(max(share, 1), 9)
    alpha, beta = (1 + beta, beta) if plus and minus else (1, -1)
    return [held * (alpha * v / plus if v > 0 else -beta * v / minus if v < 0 else 0.0) for v in d]


def test_three_classes_by_hand():
    # z = 5, 5, -1: against class 0 stand 5 and -1, spread 3, weights 1 : e^-2
    q = 1 / (1 + math.exp(-2))
    d = [2 - (1 - q), -2 * (q - (1 - q)), 3 - 3 * q]
    plus = d[0] + d[2]
    beta = -d[1] / sum(d)  # 2.13
    expected = [5 * (1 + beta) * d[0] / plus, -5 * beta, 5 * (1 + beta) * d[2] / plus]
    got = explain(W, H[None], 0).relevance[0]
    assert got.tolist() == pytest.approx(expected, rel=1e-12)
    assert float(got.sum()) == pytest.approx(5, rel=1e-12)


SIZES = [(classes, inputs) for classes in (2, 3, 7) for inputs in (1, 2, 5)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
@pytest.mark.parametrize(("classes", "inputs"), SIZES)
def test_it_is_the_slow_reference_for_every_class(seed, classes, inputs):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(1, inputs, generator=generator, dtype=torch.float64)
    for target in range(classes):
        result = explain(weight, x, target)
        expected = slow(weight.tolist(), x[0].tolist(), target, float(result.score))
        assert result.relevance[0].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_competitors_do_not_depend_on_scale_and_offset():
    scores = torch.tensor([[4.0, 1.0, 0.0, -3.0]], dtype=torch.float64)
    own = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    weights = competitors(scores, own)
    torch.testing.assert_close(competitors(7 * scores - 100, own), weights)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[0, 0] == 0
    assert weights[0, 1] > weights[0, 2] > weights[0, 3] > 0


def test_equal_competitors_weigh_the_same_and_one_or_none_is_no_error():
    own = torch.tensor([[1.0, 0, 0]])
    assert competitors(torch.tensor([[2.0, 1, 1]]), own).tolist() == [[0, 0.5, 0.5]]
    assert competitors(torch.tensor([[2.0, 1]]), own[:, :2]).tolist() == [[0, 1]]
    assert competitors(torch.tensor([[2.0]]), own[:, :1]).tolist() == [[0]]
    assert explain(W[:1], H[None], 0).relevance.tolist() == [[2, 0, 3]]


def test_a_class_like_its_competitor_shares_evenly():
    same = W[[1, 1]]
    assert explain(same, H[None], 0).relevance[0].tolist() == pytest.approx([5 / 3] * 3)


def test_the_map_of_a_class_that_lost_stays_upright():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[10.0, 1.0]], dtype=torch.float64)  # class 1 is far behind
    got = explain(weight, x, 1).relevance[0]
    assert got[1] > 0 > got[0]


def test_two_classes_at_once_are_the_sum_of_each():
    weight, x = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    a, b = explain(weight, x, 1).relevance, explain(weight, x, 4).relevance
    torch.testing.assert_close(explain(weight, x, Contrast(1, 4)).relevance, a - b)


def test_relevance_of_many_classes_is_kept():
    weight, x = torch.randn(6, 4, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    result = explain(weight, x, lambda scores: scores @ torch.arange(1.0, 7, dtype=torch.float64))
    torch.testing.assert_close(result.relevance.sum(1), result.score)


def test_a_class_that_wins_clearly_shares_two_to_one_and_one_that_hardly_does_ten_to_nine():
    for own, others, beta in ((4.0, 1.0, 1), (4.0, 3.0, 3), (4.0, 3.9, 9), (4.0, 5.0, 9)):
        weight = torch.tensor([[own, 0.0], [0.0, others]], dtype=torch.float64)
        got = explain(weight, torch.ones(1, 2, dtype=torch.float64), 0).relevance[0]
        assert got.tolist() == pytest.approx([(1 + beta) * own, -beta * own])


@pytest.mark.parametrize("kind", ["Basic", "Bottleneck", "Dense"])
def test_networks_conserve(kind):
    model = Network([kind, kind]).eval().double()
    result = LRP(model, two_sided(late="gamma", classifier="contrast"))(images(3), target=[0, 1, 2])
    assert result.ledger.gap <= 1e-12
    assert result.ledger.absorbed == 0


def test_a_convolution_at_the_end_is_mean_subtracted():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    result = LRP(model, paper(classifier="contrast"))(torch.rand(2, 3, 8, 8))
    assert result.ledger.gap <= 1e-5
    assert "mean-subtracted" in result.ledger.table("layer")
    assert "contrast" not in result.ledger.table("layer")
