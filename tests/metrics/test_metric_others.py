"""The metrics beside insertion and deletion, each on values that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from metric_networks import Colours, Summing, small_network
from torch import tensor

from relprop.errors import CheckError, InputError, UsageError
from relprop.metrics import METRICS, box_mask
from relprop.metrics.map_properties import rank_correlation, ranks

ONES = torch.ones(1, 1, 2, 2)


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_states_its_facts_and_returns_its_rows(name):
    if name in ("sparseness", "parameter-randomisation"):
        pytest.importorskip("quantus")
    metric = METRICS.build(name)
    model, x = small_network(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        target = model(x).argmax(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = metric(
        model,
        x,
        torch.rand(2, 8, 8),
        target,
        label=target,
        preprocess=Colours([0.5] * 3, [0.2] * 3),
        explainer=lambda model, x, target: x.mean(1) * target[:, None, None],
        inside=torch.ones(2, 8, 8, dtype=torch.bool),
    )
    assert set(found) == set(metric.rows) == set(metric.higher_is_better)
    assert metric.unit
    assert metric.reference
    assert all(value.shape == (2,) and bool(value.isfinite().all()) for value in found.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_conservation_gap_is_relative_to_the_score():
    # logit 4: a total of 3 is a quarter short, and one of 5 a quarter over
    metric = METRICS.build("conservation-gap:score=logit")
    for total, gap in [(3.0, 0.25), (5.0, 0.25), (4.0, 0.0), (-4.0, 2.0)]:
        heat = torch.full((1, 2, 2), total / 4)
        assert metric(Summing(), ONES, heat, 1)["conservation-gap"].item() == pytest.approx(gap)
    p = torch.sigmoid(tensor(4.0))
    found = METRICS.build("conservation-gap")(Summing(), ONES, p.expand(1, 2, 2) / 4, 1)
    assert found["conservation-gap"].item() == pytest.approx(0, abs=1e-6)


def test_ranks_share_ties_and_count_from_half():
    assert ranks(tensor([[5.0, 1.0, 5.0, 9.0]])).tolist() == [[2.0, 0.5, 2.0, 3.5]]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 40, 80], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [2, 1, 4, 3], 0.6),  # 1 - 6·4 / (4·15)
        ([1, 1, 1, 1], [2, 2, 2, 2], 1.0),
        ([1, 1, 1, 1], [1, 2, 3, 4], 0.0),
    ],
)
def test_rank_correlation_by_hand(a, b, expected):
    found = rank_correlation(tensor(a).float().view(1, 2, 2), tensor(b).float().view(1, 2, 2))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_class_sensitivity_tells_a_map_that_follows_the_class_from_one_that_does_not():
    model, x = small_network(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        scores = model(x)
    target, asked = scores.argmax(1), []

    def blind(model, x, target):
        asked.append(target)
        return x.mean(1)

    def opposite(model, x, other):
        return -x.mean(1)

    metric = METRICS.build("class-sensitivity")
    assert metric(model, x, x.mean(1), target, explainer=blind)["class-sensitivity"].abs().max() < 1e-6
    assert torch.equal(asked[0], scores.topk(2).indices[:, 1])
    assert metric(model, x, x.mean(1), target, explainer=opposite)["class-sensitivity"].tolist() == pytest.approx(
        [2, 2]
    )
    METRICS.build("class-sensitivity:last")(model, x, x.mean(1), target, explainer=blind)
    assert torch.equal(asked[1], scores.argmin(1))
    with pytest.raises(UsageError, match="pass explainer="):
        metric(model, x, x.mean(1), target)


def test_boxes_hold_the_pixels_whose_centres_they_hold():
    found = box_mask(tensor([[1.0, 0.0, 3.0, 1.0], [0.6, 0.5, 1.6, 2.0]]), 2, 4)
    assert found.int().tolist() == [[[0, 1, 1, 0], [0, 0, 0, 0]], [[0, 1, 0, 0], [0, 1, 0, 0]]]
    with pytest.raises(InputError, match="left <= right"):
        box_mask(tensor([[3.0, 0.0, 1.0, 1.0]]), 2, 4)


HEAT = tensor([[[3.0, -5.0], [1.0, 4.0]]])


def test_energy_counts_the_positive_relevance_in_the_box():
    metric, right = METRICS.build("energy-in-box"), tensor([[1.0, 0.0, 2.0, 2.0]])
    assert metric(None, ONES, HEAT, 0, boxes=right)["energy-in-box"].item() == 0.5  # 4 of 3 + 1 + 4
    assert metric(None, ONES, -HEAT.abs(), 0, boxes=right)["energy-in-box"].item() == 0


def test_pointing_game_asks_for_the_highest_pixel_and_shares_a_tie():
    metric = METRICS.build("pointing-game")
    left, right = tensor([[0, 0, 1, 2]]), tensor([[1, 0, 2, 2]])
    assert metric(None, ONES, HEAT, 0, boxes=right)["pointing-game"].item() == 1
    assert metric(None, ONES, HEAT, 0, boxes=left)["pointing-game"].item() == 0
    assert metric(None, ONES, torch.ones(1, 2, 2), 0, boxes=left)["pointing-game"].item() == 0.5
    with pytest.raises(UsageError, match="where the object is"):
        metric(None, ONES, HEAT, 0)


def test_sparseness_is_the_gini_index():
    pytest.importorskip("quantus")
    metric = METRICS.build("sparseness")
    x = torch.rand(4, 1, 2, 2)
    heat = tensor([[0.0, 0, 0, -7], [1, 1, 1, 1], [0, 0, 0, 0], [1, 2, 3, 4]]).view(4, 2, 2)
    # of n values, one alone: (n - 1) / n; of 1 2 3 4: Σ (2k - n - 1) v_k / (n Σ v) = (-3 - 2 + 3 + 12) / 40
    assert metric(None, x, heat, 0)["sparseness"].tolist() == pytest.approx([0.75, 0, 0, 0.25])


def test_a_constant_map_ranks_nothing_so_randomisation_finds_no_likeness_in_it():
    pytest.importorskip("quantus")
    model, x = small_network(), torch.rand(3, 3, 8, 8)
    constant, edges = torch.ones(3, 8, 8), x.mean(1)
    first = torch.tensor([True, False, False])[:, None, None]
    metric = METRICS.build("parameter-randomisation")

    def randomised(model, x, target):
        return torch.where(first, constant, edges)

    def value(heatmap):
        return metric(model, x, heatmap, 0, explainer=randomised)["parameter-randomisation"].tolist()

    still = METRICS.build("parameter-randomisation:layers=all")
    found = still(model, x, constant, 0, explainer=lambda model, x, target: torch.zeros(3, 8, 8))
    assert found["parameter-randomisation"].tolist() == [0, 0, 0]
    assert value(edges) == pytest.approx([0, 1, 1])  # once the weights are random, the first map is constant
    for level in (0.0, 0.5, 1.0):
        constant.fill_(level)
        assert value(constant) == [1, 0, 0]  # the other way round; and the same constant is the same map
    edges = edges.index_fill(0, torch.tensor([1]), torch.nan)
    for heatmap in (constant, x.mean(1)):
        with pytest.raises(CheckError, match=r"no value for sample\(s\) 1: a map of theirs is not finite"):
            value(heatmap)


def test_randomisation_finds_maps_that_do_not_read_the_weights():
    pytest.importorskip("quantus")
    model, x = small_network(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        model(x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()

    def edges(model, x, target):
        return x.mean(1)

    def gradient(model, x, target):
        x = x.clone().requires_grad_()
        scores = model(x).gather(1, target[:, None]).sum()
        return torch.autograd.grad(scores, x)[0].sum(1)

    for layers in ("all", "last"):
        metric = METRICS.build(f"parameter-randomisation:layers={layers}")
        blind = metric(model, x, edges(model, x, None), 0, explainer=edges)["parameter-randomisation"]
        target = torch.zeros(2, dtype=torch.int64)
        reads = metric(model, x, gradient(model, x, target), target, explainer=gradient)["parameter-randomisation"]
        assert blind.tolist() == pytest.approx([1, 1])
        assert bool((reads < 0.9).all())
    ssim = METRICS.build("parameter-randomisation:ssim")
    assert ssim(model, x, edges(model, x, None), 0, explainer=edges)["parameter-randomisation"].tolist() == [1, 1]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
