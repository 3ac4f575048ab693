"""Every rule on a layer small enough to work out by hand, in float64."""

from __future__ import annotations

import pytest
import torch
from core_through import through
from torch import nn, tensor

from relprop.core import rules
from relprop.errors import InputError


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(tensor(weight, dtype=torch.float64))
        if bias is not None:
            layer.bias.copy_(tensor(bias, dtype=torch.float64))
    return layer.double()


# one output: w = (2, -1, 3), b = 1; h = (1, 2, 3), so z = (2, -2, 9) and b = 1: z_j = 10; R_j = 9
WEIGHT, BIAS, INPUT = [[2.0, -1.0, 3.0]], [1.0], [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (rules.z_plus, [9 * 2 / 11, 0, 9 * 9 / 11]),
        (rules.z_plus_ones, [9 * 2 / 5, 0, 9 * 3 / 5]),
        (rules.flat, [3, 3, 3]),
        (rules.w_square, [9 * 4 / 14, 9 * 1 / 14, 9 * 9 / 14]),
        (rules.epsilon(0.0), [9 * 2 / 10, -9 * 2 / 10, 9 * 9 / 10]),
        (rules.epsilon(2.0), [9 * 2 / 12, -9 * 2 / 12, 9 * 9 / 12]),
        (rules.epsilon(1.0, bias=False), [9 * 2 / 10, -9 * 2 / 10, 9 * 9 / 10]),
        # favoured: 2 + 2/2, -2, 9 + 9/2, bias 1 + 1/2: their sum is 16, of which 1.5 is the bias's
        (rules.gamma(0.5, eps=0.0), [9 * 3 / 16, -9 * 2 / 16, 9 * 13.5 / 16]),
        # positive: 2 + 9 + bias 1 = 12; negative: -2
        (rules.alpha_beta(2, 1, eps=0.0), [2 * 9 * 2 / 12, -9, 2 * 9 * 9 / 12]),
        (rules.alpha_beta(1, 0, eps=0.0), [9 * 2 / 12, 0, 9 * 9 / 12]),
        # without the bias: positive 11, negative -2
        (rules.conserving_alpha_beta(2, 1), [2 * 9 * 2 / 11, -9, 2 * 9 * 9 / 11]),
        # favoured: 3, -2, 13.5, which add up to 14.5
        (rules.conserving_gamma(0.5), [9 * 3 / 14.5, -9 * 2 / 14.5, 9 * 13.5 / 14.5]),
        (rules.z_plus_epsilon(4.0), [9 * 2 / 15, 0, 9 * 9 / 15]),
        (rules.z_plus_epsilon(4.0, ones=True), [9 * 2 / 9, 0, 9 * 3 / 9]),
        (rules.z_plus_bias(eps=1.0), [9 * 2 / 13, 0, 9 * 9 / 13]),
        # l = 0, u = 4: 2 (1 - 0), -1 (2 - 4), 3 (3 - 0), which add up to 13
        (rules.z_box(0.0, 4.0), [9 * 2 / 13, 9 * 2 / 13, 9 * 9 / 13]),
    ],
    ids=lambda value: value.name if isinstance(value, rules.Rule) else "",
)
def test_rule_follows_its_formula(rule, expected):
    x = tensor(INPUT, dtype=torch.float64)
    found = through(linear(WEIGHT, BIAS), x, tensor([[9.0]], dtype=torch.float64), rule)
    assert found[0].tolist() == pytest.approx(expected, rel=1e-14)


def test_z_plus_counts_negative_inputs_of_negative_weights():
    # z = (2, 3, -6): negative times negative is a positive contribution
    x = tensor([[1.0, -3.0, -2.0]], dtype=torch.float64)
    found = through(linear(WEIGHT, BIAS), x, tensor([[10.0]], dtype=torch.float64), rules.z_plus)
    assert found[0].tolist() == pytest.approx([4, 6, 0], rel=1e-14)


def test_gamma_favours_negative_contributions_of_a_negative_output():
    # z = (2, -6), sum -4, s = -1: favoured 2 and -9, sum -7
    x = tensor([[1.0, 2.0]], dtype=torch.float64)
    found = through(linear([[2.0, -3.0]]), x, tensor([[7.0]], dtype=torch.float64), rules.gamma(0.5, eps=0.0))
    assert found[0].tolist() == pytest.approx([-2, 9], rel=1e-14)


@pytest.mark.parametrize("rule", [rules.z_plus, rules.z_plus_ones], ids=["z+", "ones"])
def test_a_unit_that_nothing_excites_shares_evenly(rule):
    x = tensor([[1.0, 2.0, 4.0, 1.0]], dtype=torch.float64)
    found = through(linear([[-1.0, -2.0, -3.0, 0.0]], [5.0]), x, tensor([[8.0]], dtype=torch.float64), rule)
    assert found[0].tolist() == [2, 2, 2, 2]


def test_conserving_gamma_favours_them_too():
    # z = (2, -6), sum -4: favoured 2 and -9, sum -7
    x = tensor([[1.0, 2.0]], dtype=torch.float64)
    layer = linear([[2.0, -3.0]], [9.0])  # a bias that would turn the output over takes no part
    found = through(layer, x, tensor([[7.0]], dtype=torch.float64), rules.conserving_gamma(0.5))
    assert found[0].tolist() == pytest.approx([-2, 9], rel=1e-14)


def test_a_dead_unit_shares_over_in_bounds_inputs_alone():
    # kernel 3, padding 1 on three inputs: the first output sees inputs 0 and 1, the second all, the third 1 and 2
    layer = nn.Conv1d(1, 1, 3, padding=1).double()
    nn.init.constant_(layer.weight, -1.0)
    x = torch.ones(1, 1, 3, dtype=torch.float64)
    found = through(layer, x, tensor([[[6.0, 6.0, 0.0]]], dtype=torch.float64), rules.z_plus)
    assert found[0, 0].tolist() == pytest.approx([3 + 2, 3 + 2, 2], rel=1e-14)


def test_subnormal_excitation_counts_as_dead_rather_than_overflowing():
    layer = linear([[1e-300, 1e-300]])
    x = tensor([[1e-10, 3e-10]], dtype=torch.float64)  # z = 4e-310, below the smallest normal number
    found = through(layer, x, tensor([[4.0]], dtype=torch.float64), rules.z_plus)
    assert found[0].tolist() == [2, 2]


def test_epsilon_takes_the_sign_of_zero_for_plus():
    x = tensor([[1.0, 1.0]], dtype=torch.float64)
    found = through(linear([[1.0, -1.0]]), x, tensor([[3.0]], dtype=torch.float64), rules.epsilon(0.5))
    assert found[0].tolist() == [6, -6]


def test_z_box_refuses_an_input_outside_the_box():
    x = tensor(INPUT, dtype=torch.float64)
    with pytest.raises(InputError, match=r"spans 1 to 3, outside the box"):
        through(linear(WEIGHT, BIAS), x, tensor([[9.0]], dtype=torch.float64), rules.z_box(0.0, 2.5))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([[2.0, 3.0]], [2.0, 6.0]),  # nothing speaks against it
        ([[-2.0, -3.0]], [2.0, 6.0]),  # nothing speaks for it
        ([[0.0, 0.0]], [4.0, 4.0]),  # nothing does either
    ],
)
@pytest.mark.parametrize("rule", [rules.conserving_alpha_beta(2, 1), rules.conserving_gamma(0.25)])
def test_conserving_rules_hand_on_everything_where_contributions_have_one_sign(rule, weight, expected):
    x = tensor([[1.0, 2.0]], dtype=torch.float64)
    found = through(linear(weight, [5.0]), x, tensor([[8.0]], dtype=torch.float64), rule)
    assert found[0].tolist() == pytest.approx(expected, rel=1e-14)


def test_conserving_rules_refuse_what_would_not_conserve():
    with pytest.raises(ValueError, match=r"alpha - beta must be 1 with beta at least 0, not 3 - 1"):
        rules.conserving_alpha_beta(3, 1)
    with pytest.raises(ValueError, match="gamma must be above 0, not 0"):
        rules.conserving_gamma(0)


def test_alpha_minus_beta_must_be_one():
    with pytest.raises(ValueError, match=r"alpha - beta must be 1, not 3 - 1"):
        rules.alpha_beta(3, 1)


PLANE = [[1.0, 3.0], [0.0, 4.0]]


@pytest.mark.parametrize(
    ("layer", "rule", "plane", "expected"),
    [
        (nn.MaxPool2d(2), rules.winner_takes_all, PLANE, [[0, 0], [0, 8]]),
        (nn.MaxPool2d(2), rules.winner_takes_all, [[4, 4], [4, 4]], [[8, 0], [0, 0]]),
        (nn.MaxPool2d(2), rules.max_as_average, PLANE, [[1, 3], [0, 4]]),
        (nn.AvgPool2d(2), rules.average_z_plus, PLANE, [[1, 3], [0, 4]]),
        (nn.AvgPool2d(2), rules.average_z_plus, [[-1, -3], [0, -4]], [[2, 2], [2, 2]]),
        (nn.AvgPool2d(2), rules.average_z_plus, [[-1, 3], [0, 1]], [[0, 6], [0, 2]]),
        # signed: the mean of (-1, 3, 0, 2) is 1, each counts for a quarter
        (nn.AvgPool2d(2), rules.signed_average(0.0), [[-1, 3], [0, 2]], [[-2, 6], [0, 4]]),
        (nn.AvgPool2d(2), rules.average_epsilon(2.0), PLANE, [[0.5, 1.5], [0, 2]]),
        (nn.MaxPool2d(2), rules.average_epsilon(2.0, window=2), PLANE, [[0.5, 1.5], [0, 2]]),
        (nn.AdaptiveAvgPool2d(1), rules.average_z_plus, PLANE, [[1, 3], [0, 4]]),
        (nn.AdaptiveMaxPool2d(1), rules.winner_takes_all, PLANE, [[0, 0], [0, 8]]),
    ],
)
def test_pooling_rules_on_one_window(layer, rule, plane, expected):
    x = tensor([[plane]], dtype=torch.float64)
    found = through(layer, x, tensor([[[[8.0]]]], dtype=torch.float64), rule)
    assert found[0, 0].tolist() == expected


def test_overlapping_windows_of_an_average_share_one_member():
    # windows of 2 at stride 1 over (1, 3, 1): the middle gets 3/4 of each
    x = tensor([[[1.0, 3.0, 1.0]]], dtype=torch.float64)
    found = through(nn.AvgPool1d(2, 1), x, tensor([[[4.0, 8.0]]], dtype=torch.float64), rules.average_z_plus)
    assert found[0, 0].tolist() == [1, 3 + 6, 2]
