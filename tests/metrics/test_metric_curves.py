"""Insertion and deletion: against a slow second implementation, in closed form, and what their speed rests on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metric_networks import Colours, Counting, Summing, small_network
from metric_released import released_curves, trapezoid
from torch import tensor

from relprop.core.result.quantize import quantize
from relprop.errors import CaptureError, InputError, TargetError, UsageError
from relprop.metrics import METRICS, PROTOCOLS, Inputs, InsertionDeletion, Protocol, area, insertion_deletion

PLAIN = Colours([0.0], [1.0])
RGB = Colours([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
SHARED = Path(__file__).parents[3] / "shared"


def tied_maps(count, height, width, seed=0):
    """Maps with many ties: of 1 to 8 levels, quantized noise, ReLU'd noise, a constant."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, height, width, generator=draw, dtype=torch.float64)
    kinds = [
        quantize(noise, 8, "release"),
        quantize(noise, 2, "release"),
        quantize(noise, 8),
        noise.clamp(min=0),
        noise.sign(),
        torch.ones_like(noise),
        noise,
    ]
    return torch.stack([kinds[n % len(kinds)][n] for n in range(count)])


def released_values(model, x, heat, labels, colours, step):
    black = colours.normalize(torch.zeros(x.shape[1], 1, 1, dtype=x.dtype)).flatten().numpy()
    found = []
    for image, one, label in zip(x, heat, labels.tolist(), strict=True):

        def probability(picture, label=label):
            with torch.no_grad():
                return float(model(torch.from_numpy(picture)[None]).softmax(1)[0, label])

        curves = released_curves(probability, image.numpy(), black, one.numpy(), step)
        found.append([trapezoid(curve) for curve in curves])
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize("step", [1, 5, 7, 13])
def test_released_protocol_equals_a_slow_implementation_on_ten_maps_full_of_ties(step):
    torch.manual_seed(0)
    model, x = small_network().double(), torch.randn(10, 3, 8, 9, dtype=torch.float64)
    with torch.no_grad():
        model(x)
    heat, labels = tied_maps(10, 8, 9), torch.arange(10) % 5
    found = insertion_deletion(
        model, x, heat, target=labels, label=labels, protocol="paper-protocol", step=step, preprocess=RGB
    )
    insertion, deletion = released_values(model, x, heat, labels, RGB, step)
    assert (found["insertion"].double() - insertion).abs().max() < 1e-6
    assert (found["deletion"].double() - deletion).abs().max() < 1e-6
    assert (found["id"].double() - (insertion - deletion)).abs().max() < 1e-6


@pytest.mark.skipif(not (SHARED / "models/resnet20-12fca82f.th").exists(), reason="needs the checkpoints in ../shared")
def test_released_protocol_equals_a_slow_implementation_on_a_trained_network():
    from relprop.models import load_model

    checkpoint = SHARED / "models/resnet20-12fca82f.th"
    loaded = load_model(str(checkpoint), arch="cifar-resnet20")
    torch.manual_seed(0)
    x = loaded.preprocess.normalize(torch.rand(2, 3, 32, 32))
    heat, labels = tied_maps(2, 32, 32), tensor([3, 8])
    found = insertion_deletion(
        loaded.model, x, heat, labels, labels, protocol="paper-protocol", preprocess=loaded.preprocess, step=40
    )
    insertion, deletion = released_values(loaded.model, x, heat, labels, loaded.preprocess, 40)
    assert (found["insertion"].double() - insertion).abs().max() < 1e-6
    assert (found["deletion"].double() - deletion).abs().max() < 1e-6


def test_a_constant_map_scores_the_whole_picture_and_the_blank_one_as_released():
    model, x = small_network(), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        whole = model(x).softmax(1)
        blank = model(RGB.normalize(torch.zeros(1, 3, 8, 8))).softmax(1)
    labels = tensor([0, 1, 4])
    found = insertion_deletion(model, x, np.zeros((3, 8, 8)), 2, labels, protocol="paper-protocol", preprocess=RGB)
    assert torch.allclose(found["insertion"], whole[torch.arange(3), labels], atol=1e-7)
    assert torch.allclose(found["deletion"], blank[0, labels], atol=1e-7)


IMAGE = tensor([[[[4.0, 1.0], [2.0, 3.0]]]])  # the map that orders it best is the image itself


def test_a_perfect_map_of_a_sum_by_hand():
    # insertion 0 4 7 9 10, deletion 10 6 3 1 0, as logits
    metric = InsertionDeletion("fair", step=1, score="logit")
    curves = metric.curves(Inputs.read(Summing(), IMAGE, IMAGE[:, 0], 1, preprocess=PLAIN))
    assert curves.insertion.tolist() == [[0, 4, 7, 9, 10]]
    assert curves.deletion.tolist() == [[10, 6, 3, 1, 0]]
    assert curves.at.tolist() == [0, 0.25, 0.5, 0.75, 1]
    found = metric(Summing(), IMAGE, IMAGE[:, 0], 1, preprocess=PLAIN)
    assert {name: value.item() for name, value in found.items()} == {"insertion": 6.25, "deletion": 3.75, "id": 2.5}


def test_a_shorter_last_step_weighs_less():
    # three pixels, then one: points at 0, 3/4 and 1
    metric = InsertionDeletion("fair", step=3, score="logit")
    curves = metric.curves(Inputs.read(Summing(), IMAGE, IMAGE[:, 0], 1, preprocess=PLAIN))
    assert curves.at.tolist() == [0, 0.75, 1]
    assert curves.values()["insertion"].item() == pytest.approx(0.75 * (0 + 9) / 2 + 0.25 * (9 + 10) / 2)


def test_scores_are_probabilities_of_the_explained_class_unless_the_protocol_says_otherwise():
    curves = InsertionDeletion("fair", step=2).curves(Inputs.read(Summing(), IMAGE, IMAGE[:, 0], 0, preprocess=PLAIN))
    expected = torch.sigmoid(-tensor([0.0, 7.0, 10.0]))
    assert torch.allclose(curves.insertion[0], expected)
    labelled = InsertionDeletion("paper-protocol", step=2)
    curves = labelled.curves(Inputs.read(Summing(), IMAGE, IMAGE[:, 0], 0, label=1, preprocess=PLAIN))
    assert torch.allclose(curves.insertion[0], torch.sigmoid(tensor([9.0, 10.0])))  # three pixels, then all; no blank


def test_area_of_one_point_is_the_point():
    assert area(tensor([[0.3]]), tensor([1.0])).tolist() == pytest.approx([0.3])


def brute_force(model, x, heat, classes, protocol, colours):
    """Every picture of every curve, one at a time."""
    from relprop.metrics import pixel_counts, row_major, schedule, shuffled, together
    from relprop.seeding import fingerprint

    ties = {"together": together, "row-major": row_major, "shuffled": shuffled(fingerprint(x, protocol.seed))}
    counts = pixel_counts(heat[0].numel(), protocol.pixels_a_step(*heat.shape[-2:]))
    steps = schedule(heat, counts, ties[protocol.ties])
    blank = colours.normalize(torch.zeros_like(x))
    first, curves = (0 if protocol.ends else 1), ([], [])
    for k in range(first, len(counts) + 1):
        changed = (steps <= k)[:, None]
        for curve, picture in zip(curves, (x.where(changed, blank), blank.where(changed, x)), strict=True):
            with torch.no_grad():
                curve.append(model(picture).softmax(1)[torch.arange(len(x)), classes])
    return [torch.stack(curve, 1) for curve in curves]


@pytest.mark.parametrize("ties", ["together", "row-major", "shuffled"])
@pytest.mark.parametrize("ends", [True, False])
def test_scoring_equal_pictures_once_changes_nothing(ties, ends):
    torch.manual_seed(3)
    model, x = small_network(), torch.randn(7, 3, 6, 6)
    heat, classes = tied_maps(7, 6, 6).float(), torch.arange(7) % 5
    protocol = Protocol(step=5, ties=ties, ends=ends)
    metric = InsertionDeletion(protocol, batch=11)
    curves = metric.curves(Inputs.read(model, x, heat, classes, preprocess=RGB))
    insertion, deletion = brute_force(model, x, heat, classes, protocol, RGB)
    assert torch.allclose(curves.insertion, insertion, atol=1e-6)
    assert torch.allclose(curves.deletion, deletion, atol=1e-6)


def test_the_model_sees_each_different_picture_once():
    levels = torch.zeros(1, 10, 10)
    levels[0, 0] = 2.0  # ten pixels on top, twenty below, seventy at the bottom
    levels[0, 1:3] = 1.0
    x = torch.randn(1, 3, 10, 10)
    model = Counting(small_network())
    for heat, step, expected in [
        (levels, 1, 2 * 2 + 2),  # 10 and 30 pixels shown or removed, the blank, the whole
        (torch.ones(1, 10, 10), 1, 2),  # the whole, the blank
    ]:
        model.ready(x)
        protocol = Protocol(step=step, ties="together", ends=True)
        curves = InsertionDeletion(protocol).curves(Inputs.read(model, x, heat, 0, preprocess=RGB))
        assert model.pictures == curves.pictures == expected
    model.ready(x)
    stacked = torch.stack([levels, levels * 3, torch.ones(1, 10, 10)])  # the same order, and a constant
    curves = InsertionDeletion(protocol).curves(Inputs.read(model, x, stacked, 0, preprocess=RGB))
    assert curves.insertion.shape == (3, 1, 101)
    assert model.pictures == 6


def test_a_hook_that_makes_probabilities_is_seen_when_it_comes():
    model, x = small_network(), torch.randn(1, 3, 8, 8)
    heat = torch.rand(1, 8, 8)
    before = insertion_deletion(model, x, heat, 1, preprocess=RGB)
    model.register_forward_hook(lambda module, given, scores: scores.softmax(1))
    after = insertion_deletion(model, x, heat, 1, preprocess=RGB)
    assert {name: float(value) for name, value in after.items()} == {
        name: float(value) for name, value in before.items()
    }


def test_stacked_heatmaps_score_as_they_do_alone():
    model, x = small_network(), torch.randn(2, 3, 8, 8)
    heat = torch.stack([tied_maps(2, 8, 8, seed).float() for seed in range(3)])
    together = insertion_deletion(model, x, heat, 1, preprocess=RGB)
    for m in range(3):
        alone = insertion_deletion(model, x, heat[m], 1, preprocess=RGB)
        for name, value in alone.items():
            assert torch.allclose(together[name][m], value, atol=1e-6)


def test_expected_ties_are_exact_where_no_step_parts_a_tie():
    x = torch.randn(1, 3, 4, 4)
    heat = torch.arange(4.0).repeat_interleave(4).view(1, 4, 4)
    model = Counting(small_network()).ready(x)
    expected = insertion_deletion(model, x, heat, 0, protocol="fair:ties=expected", step=4, preprocess=RGB)
    assert model.pictures == 2 * 3 + 2  # sixteen orders, and no picture more than one would need
    once = insertion_deletion(model, x, heat, 0, step=4, preprocess=RGB)
    assert expected["id"].item() == pytest.approx(once["id"].item(), abs=1e-6)


def test_expected_ties_of_a_constant_map_on_a_sum_come_near_the_straight_line():
    # every pixel is equally likely at every step, so the logit grows from 0 to 10 in a line: area 5
    protocol = PROTOCOLS.build("fair:step=1:ties=expected:score=logit:shuffles=400")
    found = insertion_deletion(Summing(), IMAGE, np.ones((1, 2, 2)), 1, protocol=protocol, preprocess=PLAIN)
    assert found["insertion"].item() == pytest.approx(5, abs=0.15)  # standard error .06
    assert found["insertion"].item() + found["deletion"].item() == pytest.approx(10, abs=1e-5)


def test_a_sample_scores_the_same_in_any_batch():
    model, x = small_network(), torch.randn(5, 3, 8, 8)
    heat = torch.ones(5, 8, 8)
    whole = insertion_deletion(model, x, heat, 0, preprocess=RGB)["insertion"]
    alone = torch.cat(
        [insertion_deletion(model, x[n : n + 1], heat[:1], 0, preprocess=RGB)["insertion"] for n in range(5)]
    )
    assert torch.allclose(whole, alone, atol=1e-6)
    other = insertion_deletion(model, x, heat, 0, preprocess=RGB, protocol="fair:seed=1")["insertion"]
    assert (whole - other).abs().max() > 1e-5  # ties fell otherwise


class Small(Counting):
    """Has memory for five pictures."""

    def forward(self, x):
        if len(x) > 5:
            self.batches.append(-len(x))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_the_batch_is_halved_until_it_fits():
    inner, x = small_network(), torch.randn(2, 3, 8, 8)
    model = Small(inner).ready(x)
    heat = torch.rand(2, 8, 8)
    found = insertion_deletion(model, x, heat, 0, preprocess=RGB, step=4, batch=16)
    assert model.batches[:3] == [-16, -8, 4]
    expected = insertion_deletion(inner, x, heat, 0, preprocess=RGB, step=4)
    assert torch.allclose(found["id"], expected["id"], atol=1e-6)
    with pytest.raises(RuntimeError, match="something else"):
        insertion_deletion(Failing().eval(), x, heat, 0, preprocess=RGB)


class Failing(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("something else")


def test_bfloat16_and_channels_last_score_about_the_same():
    model, x = small_network(), torch.randn(2, 3, 16, 16)
    heat = torch.rand(2, 16, 16)
    plain = insertion_deletion(model, x, heat, 0, preprocess=RGB)["insertion"]
    last = insertion_deletion(model, x, heat, 0, preprocess=RGB, channels_last=True)["insertion"]
    half = insertion_deletion(model, x, heat, 0, preprocess=RGB, amp=True)["insertion"]
    assert torch.allclose(plain, last, atol=1e-5)
    assert torch.allclose(plain, half, atol=2e-2)
    assert not torch.equal(plain, half)


def test_relevance_gain_is_insertion_less_deletion_under_its_own_fill():
    model, x = small_network(), torch.randn(3, 3, 8, 8)
    heat = torch.rand(3, 8, 8)
    gain = METRICS.build("symmetric-relevance-gain:fill=mean")(model, x, heat, 0)["symmetric-relevance-gain"]
    assert torch.allclose(gain, insertion_deletion(model, x, heat, 0, fill="mean")["id"], atol=1e-6)
    opposite = METRICS.build("symmetric-relevance-gain:fill=mean")(model, x, -heat, 0)["symmetric-relevance-gain"]
    assert torch.allclose(gain, -opposite, atol=0.02)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heatmap": torch.rand(2, 8, 9)}, InputError, r"heatmap has shape \(2, 8, 9\); inputs .* need .* \(2, 8, 8\)"),
        ({"heatmap": torch.full((2, 8, 8), float("nan"))}, InputError, r"sample\(s\) 0, 1 hold NaN or infinite"),
        ({"x": torch.rand(3, 8, 8)}, InputError, r"x must be pictures \(N, C, H, W\)"),
        ({"target": None}, UsageError, r"needs the explained class of each sample; pass target="),
        ({"target": tensor([1.0, 2.0])}, TargetError, "must be whole numbers"),
        ({"target": tensor([0, 9])}, TargetError, "class 9 does not exist: the model has 5 classes, 0 to 4"),
        ({"target": tensor([-1, 1])}, TargetError, "class -1 does not exist"),
        ({"protocol": "paper-protocol"}, UsageError, "needs the true label of each sample; pass label="),
        ({"protocol": "paper"}, UsageError, "no protocol is named 'paper'.*known: fair, paper-protocol"),
        ({"preprocess": None}, UsageError, "a black fill is a colour"),
        ({"ties": "fairly"}, UsageError, "ties must be one of together, shuffled, row-major, expected, not 'fairly'"),
        ({"model": torch.nn.Identity().eval()}, InputError, r"must return scores \(N, classes\), not \(\d+, 3, 8, 8\)"),
        (
            {"model": torch.nn.Sequential(small_network(), torch.nn.Dropout()).train()},
            CaptureError,
            r"training mode .*call model.eval\(\) first",
        ),
    ],
)
def test_what_cannot_be_measured_says_why(change, error, message):
    given = {"model": small_network(), "x": torch.rand(2, 3, 8, 8), "heatmap": torch.rand(2, 8, 8), "target": 0}
    with pytest.raises(error, match=message):
        insertion_deletion(**{**given, "preprocess": RGB, **change})


@pytest.mark.parametrize("end", [torch.nn.Softmax(1), torch.nn.LogSoftmax(1)], ids=["softmax", "log-softmax"])
def test_a_model_that_ends_in_a_softmax_is_measured_by_the_same_probabilities(end):
    model, x, heat = small_network(), torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
    plain = insertion_deletion(model, x, heat, 1, preprocess=RGB)
    ended = insertion_deletion(torch.nn.Sequential(model, end).eval(), x, heat, 1, preprocess=RGB)
    for name, values in plain.items():
        torch.testing.assert_close(ended[name], values)
