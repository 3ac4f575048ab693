"""What a report is made of: shares, scales, cuts, axes, colours; numbers that can be checked by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from relprop import LRP
from relprop.report.of_run import warnings_of
from relprop.report.of_studies import _axis, plain
from relprop.report.pictures import common_scale, half_on, shares, where
from relprop.report.render import TEMPLATES
from relprop.report.svg import COLOURS, Line, bar, dot, line_chart, looks, nice_range
from relprop.sessions import block_of, heat, layers_shown
from tiny import make


def test_shares_are_of_the_total_magnitude():
    assert shares(torch.tensor([[3.0, -1.0], [0.0, 4.0]])).tolist() == [[0.375, -0.125], [0.0, 0.5]]
    assert shares(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def test_one_scale_ends_where_the_first_maps_own_does():
    # constant maps: the 99.5th percentile of each is its value
    maps = [np.full((4, 4), value) for value in (0.2, 0.1, 0.9)]
    scale = common_scale(maps)
    assert (scale.low, scale.high, scale.signed) == (0.0, pytest.approx(0.2), False)
    assert scale.beyond == pytest.approx(1 / 3)
    assert scale.printed(0.2) == 20.0  # percent
    maps[1][0, 0] = -0.1
    assert (common_scale(maps).low, common_scale(maps).signed) == (pytest.approx(-0.2), True)
    assert np.array_equal(scale.rgba(np.array([0.2])), scale.rgba(np.array([0.9])))


def test_half_of_a_map_and_where_it_lies():
    corner = np.zeros((10, 10))
    corner[0, 0] = 1.0
    assert (half_on(corner), where(corner)) == (0.01, "upper left")
    assert half_on(np.ones((10, 10))) == 0.5
    assert where(np.ones((10, 10))) == "centre"
    assert where(corner[::-1]) == "lower left"
    assert where(np.zeros((3, 3))) == "nowhere"


def test_layers_shown_are_passed_by_everything_and_hold_the_whole():
    model, x = make(), torch.rand(1, 3, 8, 8)
    names = layers_shown(LRP(model).graph(x))
    assert names == ["input", "relu", "relu@1"]  # conv2 lies within the residual block: the skip goes around it
    result = LRP(model, keep=names)(x)
    for name in names:
        assert float(heat(result.at(name)).double().sum()) == pytest.approx(float(result.score), rel=1e-5)


def test_many_layers_are_thinned_out_and_the_ends_stay():
    model = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(30)], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = LRP(model.eval()).graph(torch.rand(1, 3, 8, 8))
    every, few = layers_shown(graph, most=99), layers_shown(graph, most=5)
    assert len(every) == 31
    assert few == [every[k] for k in (0, 8, 15, 22, 30)]


def test_maps_with_channels_last_are_summed_over_their_channels():
    first, last = torch.rand(1, 5, 4, 4), torch.rand(1, 4, 4, 5)
    assert torch.equal(heat(first), first.sum(1))
    assert torch.equal(heat(last), last.sum(3))


@pytest.mark.parametrize(
    ("name", "depth", "block"),
    [("layer1.0.conv1", 2, "layer1.0"), ("layer1.0.conv1", 3, "layer1.0"), ("fc", 2, "fc"), ("a.b.c", 0, "a.b.c")],
)
def test_blocks_are_the_first_parts_of_a_name(name, depth, block):
    assert block_of(name, depth) == block


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 0.53, [0, 0.2, 0.4, 0.6]),
        (-0.019, 0.25, [-0.1, 0, 0.1, 0.2, 0.3]),
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_axes_have_round_ticks_that_hold_the_data(low, high, ticks):
    assert nice_range(low, high) == (ticks[0], ticks[-1], pytest.approx(ticks))


def test_bars_and_dots_lie_where_their_values_say():
    assert 'x="0.00" y="2" width="50.00"' in bar(0.5, 0.0, 1.0)
    assert 'x="25.00" y="2" width="25.00"' in bar(-1.0, -2.0, 2.0)
    assert 'class="bar against"' in bar(-1.0, -2.0, 2.0)
    assert _axis([0.723, -23.55]) == (-23.55, 0.723)
    assert bar(0.723, *_axis([0.723, -23.55])) != bar(-23.55, *_axis([0.723, -23.55]))
    assert 'width="100.00"' in bar(7.0, 0.0, 1.0)  # beyond the axis: to its end
    drawn = dot(0.5, 0.1, 0.0, 1.0)
    assert 'class="whisker loud" x="40.00" y="6" width="20.00"' in drawn
    assert 'class="dot loud" x="49.30"' in drawn


def test_few_samples_and_overlapping_errors_are_warned_of():
    def line(explainer, mean, error, n):
        return SimpleNamespace(
            explainer=explainer, post="none", metric="insertion", protocol="fair", ties="mean", mean=mean,
            standard_error=error, n=n, failures=0,
        )  # fmt: skip

    few, close = warnings_of([line("lrp", 0.5, 0.02, 20), line("grad-cam", 0.47, 0.02, 20), line("random", 0.5, 0, 20)])
    assert "as few as 20 samples" in few
    assert "insertion under fair, ties mean (lrp and grad-cam, 0.0300 apart)" in close
    assert warnings_of([line("lrp", 0.5, 0.01, 500), line("grad-cam", 0.4, 0.01, 500)]) == []


def test_curves_run_from_the_first_step_to_the_last():
    chart = line_chart([Line("<up>", (0.0, 0.5, 1.0)), Line("control", (0.5, 0.5, 0.5), quiet=True)], "t", "x", "y")
    assert 'points="46.0,250.0 238.0,130.0 430.0,10.0"' in chart
    assert chart.index("control") < chart.index("&lt;up&gt;")  # controls lie below


def test_no_two_of_many_lines_look_alike():
    lines = [Line(str(k), (0.0,)) for k in range(3 * COLOURS)] + [Line("a", (0.0,), True), Line("b", (0.0,), True)]
    assert len(set(looks(lines))) == len(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/a/b/r.th (sha256 1)", "r.th (sha256 1)"),
        ("parquet:/data/x/test.parquet", "parquet:test.parquet"),
        ("C:\\models\\b.pt", "b.pt"),
        ("folder:/data/val:split=test", "folder:val:split=test"),
        ("timm/resnet50", "timm/resnet50"),
    ],
)
def test_folders_are_left_out(text, said):
    assert plain(text) == said


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_that_eyes_need(theme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "tokens.css").read_text(), re.DOTALL)
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[theme]))
    for ground in ("ground", "card"):
        for text in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for drawn in ("bar", "quiet", *(f"c{k}" for k in range(COLOURS))):
            assert contrast(colour[drawn], colour[ground]) >= 3.0, (drawn, ground)
    assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
    assert contrast(colour["ink"], colour["accent-soft"]) >= 4.5
