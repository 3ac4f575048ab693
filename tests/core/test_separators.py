"""Separators: which tensors all relevance passes, and maps read from several of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from core_nets import Basic, Network, images
from relprop import LRP, Relevance, paper
from relprop.cifar import cifar_resnet
from relprop.core.capture import capture
from relprop.core.composites.presets import COMPOSITES
from relprop.core.graph.separators import Separators, find_separators, separators
from relprop.core.result.combine import format_weights, parse_layer, parse_weights
from relprop.core.result.enlarge import enlarge
from relprop.core.rules import rule
from relprop.core.rules.mean_subtracted import mean_subtracted
from relprop.errors import UsageError

NAMES = ("Basic", "Bottleneck", "Dense", "Nested", "Triple", "TwiceSkipped")


def most(step, relevance):
    """Pass nine tenths on."""
    return 0.9 * relevance


def small(dtype=torch.float32):
    torch.manual_seed(3)
    model = cifar_resnet(8, shortcut="A", width=4).eval().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.2, 0.3)
    return model


def pictures(dtype=torch.float32, count=3):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("block", NAMES)
def test_a_separator_is_a_node_without_which_the_output_cannot_be_reached(block):
    model = Network([block, block]).eval().double()
    graph = capture(model, images(2))

    def reached_without(left_out: int) -> bool:
        known = {0} - {left_out}
        for node in graph.steps:
            if node.index != left_out and any(source in known for source in node.inputs):
                known.add(node.index)
        return graph.output in known

    expected = [node.index for node in graph.nodes if not reached_without(node.index)]
    assert separators(graph) == expected
    assert len(expected) < len(graph.steps)


def test_cuts_of_a_resnet_are_named_after_its_modules():
    cuts = find_separators(capture(small(), pictures()))
    assert cuts.blocks == ("layer1.0", "layer2.0", "layer3.0")
    assert cuts.expand("blocks") == ("layer1.0@input", "layer2.0@input", "layer3.0@input")
    assert cuts.expand("last-block@input") == ("layer3.0@input",)
    assert cuts.expand("last-map") == ("layer3",)
    assert cuts.expand("late-blocks") == ("layer3.0@input", "layer3")
    assert cuts.expand("layer1.0.conv1") == ("layer1.0.conv1",)
    assert (
        cuts.position("layer2.0")
        == cuts.position("layer3.0@input")
        > cuts.position("layer2.0@input")
        > cuts.position("input")
    )
    assert "layer1.0.conv1" not in cuts.positions
    assert "layer1.0.bn2" not in cuts.positions
    assert "fc" not in cuts.positions


class Stages(nn.Module):
    """Blocks of which the last has no skip, and lies in a stage of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Sequential(Basic(3), Basic(3)), nn.Sequential(nn.Conv2d(3, 4, 3, stride=2)))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.blocks(x).mean((2, 3)))


def test_blocks_without_a_skip_are_known_by_their_kin():
    cuts = find_separators(capture(Stages().eval(), pictures()))
    assert cuts.blocks == ("blocks.0.0", "blocks.0.1", "blocks.1.0")


def test_late_blocks_are_the_last_third_and_what_leaves_them():
    many = Separators({f"b.{k}": k + 1 for k in range(7)} | {"input": 0}, tuple(f"b.{k}" for k in range(7)))
    assert many.expand("late-blocks") == ("b.5@input", "b.6@input", "b.6")
    assert Separators({"input": 0, "conv": 1}).expand("late-blocks") == ("conv",)


def test_values_in_another_layout_are_no_maps():
    class LastIsChannels(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 24, 4, stride=4), nn.Linear(24, 5)

        def forward(self, x):
            return self.fc(self.conv(x).permute(0, 2, 3, 1).relu().mean((1, 2)))

    cuts = find_separators(capture(LastIsChannels().eval(), pictures()))
    assert cuts.expand("last-map") == ("conv",)
    assert "relu" not in cuts.positions


@pytest.mark.parametrize(
    ("cells", "size", "expected"),
    [
        ([4.0, 0.0], 4, [2.0, 1.5, 0.5, 0.0]),  # bilinear, divided by 2
        ([3.0, 0.0], 3, [2.0, 1.0, 0.0]),  # the columns of bilinear interpolation are 3/2 here
        ([-1.0, 1.0], 2, [-1.0, 1.0]),
        ([6.0], 3, [2.0, 2.0, 2.0]),
    ],
)
def test_enlarging_hands_out_what_each_cell_holds(cells, size, expected):
    assert torch.allclose(enlarge(torch.tensor([[cells]]), (1, size)).flatten(), torch.tensor(expected))
    assert torch.allclose(enlarge(torch.tensor([[cells]]).mT, (size, 1)).flatten(), torch.tensor(expected))


@pytest.mark.parametrize(("small", "large"), [((7, 7), (224, 224)), ((5, 3), (13, 11)), ((56, 56), (225, 225))])
def test_enlarging_keeps_the_total_of_signed_maps(small, large):
    maps = torch.randn(4, *small, dtype=torch.float64)
    maps -= maps.mean((1, 2), keepdim=True)  # totals of zero, by which nothing can be scaled
    grown = enlarge(maps, large)
    assert grown.shape == (4, *large)
    assert (grown.sum((1, 2)) - maps.sum((1, 2))).abs().max() < 1e-12 * maps.abs().sum((1, 2)).max()


@pytest.mark.parametrize(("small", "large"), [((7, 7), (224, 224)), ((5, 3), (13, 11)), ((9, 8), (9, 8))])
def test_smoothing_keeps_the_total_of_signed_maps(small, large):
    maps = torch.randn(4, *small, dtype=torch.float64)
    maps -= maps.mean((1, 2), keepdim=True)
    smooth = enlarge(maps, large, large[0] / 8)
    assert smooth.shape == (4, *large)
    assert (smooth.sum((1, 2)) - maps.sum((1, 2))).abs().max() < 1e-12 * maps.abs().sum((1, 2)).max()
    assert smooth.std() < 0.9 * enlarge(maps, large).std()


@pytest.mark.parametrize("at", [0, 4, 8])
@pytest.mark.parametrize("width", [1.5, 8.0])
def test_a_smoothed_pixel_is_seen_in_mirrors_at_the_border(at, width):
    """By reflecting a long line of pixels, far enough that the Gaussian does not reach its ends."""
    size = 9
    line = list(range(size)) + list(range(size - 1, -1, -1))  # half of them in the mirror
    spike = torch.zeros(1, size, 1, dtype=torch.float64)
    spike[0, at] = 6.0
    expected = torch.zeros(size, dtype=torch.float64)
    for place in range(-20 * size, 20 * size):
        seen = line[place % (2 * size)]
        expected[seen] += math.exp(-((place - at) ** 2) / (2 * width**2))
    found = enlarge(spike, (size, 1), width)[0, :, 0]
    assert torch.allclose(found, 6 * expected / expected.sum(), rtol=1e-9, atol=0)


def test_smoothing_prefers_no_place():
    assert torch.allclose(
        enlarge(torch.ones(1, 8, 8).double(), (32, 32), 5.0), torch.full((1, 32, 32), 1 / 16).double()
    )


def test_smoothing_is_of_the_enlarged_map_and_alike_along_both_sides():
    maps = torch.randn(2, 4, 6, dtype=torch.float64)
    whole = enlarge(maps, (8, 12), 1.2)
    steps = enlarge(enlarge(maps, (8, 12)), (8, 12), 1.2)
    assert torch.allclose(whole, steps, rtol=1e-12, atol=1e-14)
    assert torch.allclose(whole.mT, enlarge(maps.mT, (12, 8), 1.2), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("text", ["input~", "input~x", "input~0", "input~-0.1", "input~inf", "input~nan"])
def test_a_width_that_is_none_is_an_error(text):
    with pytest.raises(
        UsageError, match=r"is no width to smooth with; give the standard deviation in pixels, .* input~1.5"
    ):
        parse_layer(text)
    with pytest.raises(UsageError, match="is no width to smooth with"):
        LRP(small(), keep=[text])(pictures(count=1))


def test_a_smoothed_cut_is_read_by_its_name():
    result = LRP(small(), keep=["last-block~3"])(pictures())
    assert parse_layer("last-block@input~3") == ("last-block@input", 3.0)
    assert parse_layer("input") == ("input", 0.0)
    fine, coarse = enlarge(result.heatmap, (32, 32), 1.5), enlarge(result.at("layer3.0").sum(1), (32, 32), 3)
    by_hand = 0.25 * fine + 0.75 * coarse
    found = result.combine({"input~1.5": 0.25, "last-block~3": 0.75})
    assert torch.allclose(found, by_hand, rtol=1e-5, atol=1e-9)
    assert not torch.allclose(found, result.combine({"input": 0.25, "last-block": 0.75}), rtol=1e-2)


WEIGHTS = [
    {"last-block@input": 0.9, "input": 0.1},
    {"blocks": 0.5, "last-map": 0.25, "layer2.0": 0.25},
    {"late-blocks~3": 0.5, "input~1.5": 0.5},
]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_weighted_mean_holds_the_score(dtype, rtol):
    rules = (
        "paper",
        "paper:classifier=mean-subtracted",
        "two-sided",
        "two-sided:late=gamma:depth=1:classifier=contrast",
    )
    lrp = LRP(small(dtype), keep=[*{layer for weights in WEIGHTS for layer in weights}])
    for result in lrp.explain_each(pictures(dtype), [COMPOSITES.build(name) for name in rules], start="logit"):
        for weights in WEIGHTS:
            combined, score = result.combine(weights).double(), result.score.double()
            size = torch.maximum(combined.abs().sum((1, 2)), score.abs())
            assert ((combined.sum((1, 2)) - score).abs() <= rtol * size).all(), (result.composite, weights)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_weighted_mean_holds_the_score_less_what_was_absorbed_above_its_layers(dtype, rtol):
    composite = paper(classifier="epsilon", first="image").override(
        rules={"relu": rule(reads=(), conserves=False)(most)}
    )
    result = LRP(small(dtype), composite, keep=["last-block"])(pictures(dtype))
    took = {entry.name: taken for entry, taken in zip(result.ledger.entries, result.ledger.absorptions, strict=True)}
    above = took["fc"]
    within = sum(taken for name, taken in took.items() if name.startswith("layer3.0"))
    read = result.combine({"last-block": 0.75, "last-block@input": 0.25})
    expected = result.score.double() - above - 0.25 * within
    assert (above.abs() > 1e-3).all()
    assert (within.abs() > 1e-3).all()
    size = read.abs().sum((1, 2)).double()
    assert ((read.sum((1, 2), dtype=torch.float64) - expected).abs() <= rtol * size).all()


def test_a_map_is_the_weighted_mean_of_its_layers():
    result = LRP(small(), keep=["layer2.0"])(pictures())
    by_hand = 0.7 * result.heatmap + 0.3 * enlarge(result.at("layer2.0").sum(1), (32, 32))
    assert torch.equal(result.combine({"input": 1.0}), result.heatmap)
    assert torch.allclose(result.combine({"input": 0.7, "layer2.0": 0.3}), by_hand, rtol=1e-6, atol=0)
    # the same tensor under another name
    assert torch.equal(result.combine({"layer3.0@input": 1.0}), result.combine({"layer2.0": 1.0}))


def test_several_targets_are_read_like_one_each():
    model, x = small(), pictures()
    lrp = LRP(model, keep=["last-block"])
    both = lrp(x, target=torch.tensor([[0, 1]] * 3)).combine({"last-block": 0.5, "input": 0.5})
    assert both.shape == (3, 2, 32, 32)
    for k in (0, 1):
        single = lrp(x, target=k).combine({"last-block": 0.5, "input": 0.5})
        assert torch.allclose(both[:, k], single, rtol=1e-5, atol=1e-9)


def test_a_saved_result_can_be_read(tmp_path):
    result = LRP(small(), keep=["last-block"])(pictures())
    weights = {"last-block@input": 0.9, "input": 0.1}
    loaded = Relevance.load(result.save(tmp_path / "saved"))
    assert torch.equal(loaded.combine(weights), result.combine(weights))
    assert torch.equal(result.cpu().combine(weights), result.combine(weights))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"layer1.0.conv1": 1.0},
            r"'layer1.0.conv1' is no separator layer that holds a map.*separator layers are input, conv1",
        ),
        ({"layer9": 1.0}, r"'layer9' is no separator layer.*near it: layer3, layer2"),
        ({"fc": 1.0}, "'fc' is no separator layer that holds a map"),
        ({"layer1": 1.0}, r"the layer 'layer1' was not kept. Ask for it with LRP\(model, keep=\['layer1'\]\)"),
        ({"input": 0.5, "layer3": 0.6}, "must add up to 1, .* input 0.5, layer3 0.6 add up to 1.1"),
        ({"input": float("nan")}, "must add up to 1"),
        ({}, "at least one layer"),
    ],
)
def test_what_cannot_be_read_is_said(kept_last, weights, message):
    with pytest.raises(UsageError, match=message):
        kept_last.combine(weights)


@pytest.fixture(scope="module")
def kept_last():
    return LRP(small(), keep=["layer3"])(pictures(count=1))


def test_a_result_that_kept_nothing_says_what_to_keep():
    with pytest.raises(UsageError, match=r"no separator layer was kept. .* LRP\(model, keep=\['last-map', 'input'\]\)"):
        LRP(small())(pictures(count=1)).combine({"last-map": 0.5, "input": 0.5})


def test_a_network_without_blocks_says_so_and_has_a_last_map():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    result = LRP(model, keep=["last-map"])(pictures())
    assert result.combine({"last-map": 1.0}).sum().item() == pytest.approx(result.score.sum().item(), rel=1e-6)
    with pytest.raises(UsageError, match=r"no residual block .* has no 'last-block'; separator layers are input, 0, 1"):
        LRP(model, keep=["last-block"])(pictures())


@pytest.mark.parametrize("text", ["", "0.5*", "x*input", "0.5*input+0.5*input", "0.5*input"])
def test_weights_that_cannot_be_parsed_are_an_error(text):
    with pytest.raises(UsageError, match=r"add up to 1|write it as"):
        parse_weights(text)


def test_weights_are_written_as_they_are_read():
    assert parse_weights("0.9*last-block@input + 0.1*input") == {"last-block@input": 0.9, "input": 0.1}
    assert parse_weights("last-map") == {"last-map": 1.0}
    assert parse_weights(format_weights(WEIGHTS[1])) == WEIGHTS[1]


def test_the_centred_rule_shares_by_what_sets_a_class_apart():
    """Weights (2, 0), (0, 2), (1, 1) less their mean (1, 1) are (1, -1), (-1, 1), (0, 0); features are (3, 1)."""
    head = nn.Linear(2, 3).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
        head.bias.fill_(-50.0)  # a score below zero leaves the map upright
    lrp = LRP(head.eval(), paper().override(first=mean_subtracted))
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    relevance = lrp(x, target=0).relevance / lrp(x, target=0).score
    assert relevance.tolist() == [[pytest.approx(1.5), pytest.approx(-0.5)]]
    dead = lrp(x, target=2).relevance / lrp(x, target=2).score  # nothing sets class 2 apart: evenly
    assert dead.tolist() == [[pytest.approx(0.5), pytest.approx(0.5)]]


def test_an_unknown_classifier_rule_is_an_error():
    with pytest.raises(
        UsageError, match=r"classifier must be one of z\+, epsilon, mean-subtracted, contrast, not 'gamma'"
    ):
        paper(classifier="gamma")
