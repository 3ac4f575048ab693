"""Colours: zero is neutral, the bar tells the range, nothing is left out silently."""

import numpy as np
import pytest

from relprop.errors import InputError
from relprop.viz import blend, scale_of
from relprop.viz.colour import GROUND


def ramp(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 16).reshape(4, 4)


def test_zero_is_transparent_and_the_arms_mirror_each_other():
    scale = scale_of(ramp(-2, 1))
    zero, plus, minus = scale.rgba(np.array([0.0, 0.7, -0.7]))
    assert zero[3] == 0
    assert plus[3] == minus[3] > 0
    assert plus[:3].tolist() == minus[:3][::-1].tolist()  # red and blue change places
    assert plus[0] > plus[2]
    assert minus[2] > minus[0]


@pytest.mark.parametrize(("low", "high"), [(-2, 1), (-1, 2)])
def test_signed_range_is_centred_although_the_data_is_not(low, high):
    scale = scale_of(ramp(low, high), percentile=None)
    assert (scale.low, scale.high, scale.signed) == (-2, 2, True)
    assert (scale.smallest, scale.largest) == (low, high)
    bar = np.array(scale.bar_colours().colors)
    assert bar[len(bar) // 2] == pytest.approx([GROUND] * 3)


def test_positive_map_starts_at_zero_even_if_its_data_does_not():
    scale = scale_of(ramp(1, 3), percentile=None)
    assert (scale.low, scale.high, scale.signed) == (0, 3, False)


def test_one_arm_grows_lighter_all_the_way():
    bar = np.array(scale_of(ramp(0, 1)).bar_colours().colors) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(bar) >= -1e-3).all()
    assert bar[0] == pytest.approx(GROUND)
    assert bar[-1] > 0.9


def test_percentile_clips_and_says_so():
    values = np.arange(1.0, 1001.0).reshape(20, 50) / 1000
    scale = scale_of(values, percentile=99)
    assert scale.high == pytest.approx(0.99001)
    assert scale.beyond == pytest.approx(0.01)  # 991 to 1000 of a thousand
    assert scale.note == "colours span 0 to 0.99 (percentile 99); 1 % of pixels lie beyond, data from 0.001 to 1"
    assert scale.rgba(np.array(1.0)).tolist() == scale.rgba(np.array(0.99001)).tolist()


def test_full_range_when_nothing_is_clipped():
    assert scale_of(ramp(0, 4), percentile=None).note == "colours span 0 to 4; data from 0 to 4"


def test_share_of_the_score_is_a_percentage():
    scale = scale_of(ramp(0, 0.004), score=0.8, percentile=None)
    assert scale.unit == "share of the score per pixel, %"
    assert scale.printed(0.004) == pytest.approx(0.5)
    assert scale.note == "colours span 0 to 0.5 %; data from 0 to 0.5 %"
    assert scale_of(ramp(0, 1), score=-2.0).unit == "relevance per pixel"  # no share of a negative score


def test_a_map_that_is_nearly_all_zero_falls_back_to_its_maximum():
    values = np.zeros((100, 100))
    values[3, 3] = 5.0
    scale = scale_of(values)
    assert (scale.high, scale.percentile, scale.beyond) == (5.0, None, 0)


def test_a_map_of_zeros_is_neutral_everywhere():
    scale = scale_of(np.zeros((3, 3)))
    assert scale.note == "zero at every pixel"
    assert blend(None, np.zeros((3, 3)), scale) == pytest.approx(np.full((3, 3, 3), GROUND))


def test_rounding_noise_below_zero_is_no_negative_relevance():
    assert not scale_of(np.array([[1.0, -1e-9]])).signed
    assert scale_of(np.array([[1.0, -1e-3]])).signed


def test_levels_take_the_full_range_and_one_colour_each():
    values = np.array([[0.0, 0.25], [0.5, 1.0]])
    scale = scale_of(values, levels=True)
    assert scale.levels == (0, 0.25, 0.5, 1)
    assert scale.note == "4 levels, 0 to 1"
    assert len(scale.bar_colours().colors) == 4
    assert np.allclose(scale.bar_colours().colors[2], scale.over(np.array(0.5), GROUND))


@pytest.mark.parametrize(
    ("heatmap", "sentence"),
    [
        (np.zeros((2, 3, 4)), r"has shape \(H, W\), not \(2, 3, 4\)"),
        (np.zeros((0, 4)), r"not \(0, 4\)"),
        (np.array([[0.0, np.nan], [np.inf, 1.0]]), "has 2 pixels that are not finite"),
    ],
)
def test_unusable_maps_are_refused(heatmap, sentence):
    with pytest.raises(InputError, match=sentence):
        scale_of(heatmap)


def test_negative_values_are_not_hidden_by_force():
    with pytest.raises(InputError, match="goes down to -2"):
        scale_of(ramp(-2, 1), signed=False)
