"""What is explained where it is not the score of one class, and what it begins with."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, fields

import pytest
import torch
from core_through import through
from torch import nn, tensor

import relprop
from relprop.core import rules
from relprop.core.targets.start import Sigmoid, begin
from relprop.core.targets.target import Binary, Contrast, Given, Mask, Value, of_function, one_each
from relprop.errors import TargetError, UsageError
from tiny import Ends, Tiny, images

X = images()
Y = tensor([[1.0, 2.0, -3.0], [0.0, 4.0, 5.0]])
P = Y.softmax(1)


@pytest.fixture(scope="module")
def lrp():
    return relprop.LRP(Tiny(), strict=True)


# ---- the relevance that an output begins with, by hand


@pytest.mark.parametrize(
    ("target", "start", "expected"),
    [
        (Contrast(1, 2), "logit", [[0, 2, 3], [0, 4, -5]]),
        (Contrast([1, 2], [0, 1]), "logit", [[-1, 2, 0], [0, -4, 5]]),
        (Contrast(1, 2), "probability", [[0, P[0, 1], -P[0, 2]], [0, P[1, 1], -P[1, 2]]]),
        (Value(2), "probability", [[0, 0, -3], [0, 0, 5]]),
        (Given(tensor([[0.0, 1.0, 0.0]])), "logit", [[0, 1, 0], [0, 1, 0]]),
        (Given(lambda y: 2 * y), "logit", [[2, 4, -6], [0, 8, 10]]),
    ],
    ids=str,
)
def test_what_an_output_begins_with(target, start, expected):
    torch.testing.assert_close(target.relevance(Y, start), tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda y: y[:, 1], [[0, 2, 0], [0, 4, 0]]),
        (lambda y: y[:, 1] - y[:, 2], [[0, 2, 3], [0, 4, -5]]),
        (lambda y: y.amax(1), [[0, 2, 0], [0, 0, 5]]),
        (lambda y: 3 * y.mean(1), [[1, 2, -3], [0, 4, 5]]),
        (lambda y: y.relu(), [[1, 2, 0], [0, 4, 5]]),  # in the output's shape: relevance itself
    ],
    ids=["pick", "difference", "largest", "mean", "relevance"],
)
def test_a_function_hands_out_what_each_value_contributes(function, expected):
    assert of_function(function, Y).tolist() == expected


def test_each_image_its_own_target_as_in_pytorch_grad_cam():
    begin = one_each([lambda y: y[2] - y[0], Contrast(1, 0)], Y, Y, "logit", "softmax")
    assert begin.tolist() == [[-1, 0, -3], [0, 4, 0]]


def test_yes_or_no_of_one_logit():
    y = tensor([[0.0], [2.0]])
    assert Binary().relevance(y, "probability").flatten().tolist() == pytest.approx([0.5, 0.880797])
    assert Binary(yes=False).relevance(y, "probability").flatten().tolist() == pytest.approx([0.5, 0.119203])
    assert Binary(yes=False).relevance(y[:, 0], "logit").tolist() == [0, -2]


def test_a_class_over_the_pixels_of_a_mask():
    y = tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 9.0], [0.0, 9.0]]]])  # (1, 2, 2, 2): class 0 wins on the left
    left = Mask(0).relevance(y, "logit")
    assert left.tolist() == [[[[0.5, 0], [1.5, 0]], [[0, 0], [0, 0]]]]
    chosen = Mask(1, torch.tensor([[True, True], [False, False]])).relevance(y, "logit")
    assert chosen.tolist() == [[[[0, 0], [0, 0]], [[0, 4.5], [0, 0]]]]
    p = y.softmax(1)[0, 0]
    assert Mask(0).relevance(y, "probability").sum().item() == pytest.approx(((p[0, 0] + p[1, 0]) / 2).item())


# ---- through a network


def test_a_contrast_sums_to_the_difference_of_two_probabilities(lrp):
    result = lrp(X, Contrast(1, 2))
    p = result.logits.softmax(1)
    torch.testing.assert_close(result.score, p[:, 1] - p[:, 2])
    one, two = lrp(X, 1), lrp(X, 2)
    torch.testing.assert_close(result.relevance, one.relevance - two.relevance, rtol=1e-4, atol=1e-8)
    assert (result.target.tolist(), result.what) == ([-1, -1], "class 1 against 2")
    with pytest.raises(UsageError, match="class 1 against 2 was explained, which is not the probability of one class"):
        _ = result.probability


def test_differences_are_judged_against_all_relevance_not_against_what_is_left():
    """Two classes that cancel start with a sum of 0: the ledger must not divide by it."""
    model = Tiny()
    model.fc.weight.data[2], model.fc.bias.data[2] = model.fc.weight.data[1], model.fc.bias.data[1]
    result = relprop.explain(model, X, Contrast(1, 2))
    assert result.score.abs().max() < 1e-7
    assert result.ledger.gap < 1e-6
    begun = result.logits.softmax(1)[:, 1:3].double().sum(1)
    torch.testing.assert_close(result.ledger.entries[0].magnitude, begun, rtol=1e-6, atol=0)


def test_a_function_is_the_same_as_the_target_it_spells(lrp):
    by_function = lrp(X, lambda y: y[:, 1] - y[:, 2])
    assert torch.equal(by_function.relevance, lrp(X, Contrast(1, 2), start="logit").relevance)
    assert by_function.what == "<lambda>"
    per_image = lrp(X, [lambda y: y[1] - y[2]] * 2)
    assert torch.equal(per_image.relevance, by_function.relevance)


def test_start_can_be_relevance(lrp):
    one_hot = torch.eye(5)[[3, 1]]
    result = lrp(X, start=one_hot)
    assert result.score.tolist() == [1, 1]
    probability = lrp(X, [3, 1])
    torch.testing.assert_close(result.relevance * probability.score.view(-1, 1, 1, 1), probability.relevance)
    assert torch.equal(one_hot, torch.eye(5)[[3, 1]])


def test_a_result_says_on_disk_what_it_explains(lrp, tmp_path):
    result = lrp(X, Contrast(1, 2))
    assert relprop.Relevance.load(result.save(tmp_path)).what == result.cpu().what == "class 1 against 2"


@pytest.mark.parametrize("end", [lambda y: y[:, 0], lambda y: y[:, :1]], ids=["(N,)", "(N, 1)"])
def test_regression(end):
    model = Ends(end).eval()
    result = relprop.LRP(model, strict=True)(X, Value())
    assert result.score.flatten().tolist() == pytest.approx(model(X).flatten().tolist())
    torch.testing.assert_close(result.heatmap.sum((1, 2)), result.score, rtol=1e-5, atol=0)
    yes = relprop.explain(model, X, Binary())
    torch.testing.assert_close(yes.heatmap.sum((1, 2)), model(X).flatten().sigmoid().detach())


class Segmenter(nn.Module):
    """Scores for each pixel, upsampled, in a dict, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 1)
        self.eval()

    def forward(self, x):
        scores = self.head(self.conv(x).relu())
        up = nn.functional.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": up, "aux": scores}


def test_a_mask_over_a_segmentation():
    model = Segmenter()
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:3, :3] = True
    result = relprop.LRP(model, strict=True)(X, Mask(1, mask))
    expected = model(X)["out"].softmax(1)[:, 1, :3, :3].mean((1, 2)).detach()
    torch.testing.assert_close(result.score, expected)
    torch.testing.assert_close(result.heatmap.sum((1, 2)), expected, rtol=1e-5, atol=0)
    assert (result.heatmap[:, 5:] == 0).all()  # out of reach of the mask
    assert result.heatmap[:, :3, :3].sum() > 0.5 * expected.sum()


# ---- interpolation


def test_interpolation_gives_back_by_its_weights():
    """Nearest: each of two values is copied twice. Linear: (a, ¾a + ¼b, ¼a + ¾b, b)."""
    value, relevance = tensor([[[-1.0, 2.0]]]), tensor([[[1.0, 8.0, 4.0, 2.0]]])
    for mode, expected in (("nearest", [9, 6]), ("linear", [1 + 6 + 1, 2 + 3 + 2])):
        found = through(nn.Upsample(scale_factor=2, mode=mode), value, relevance, rules.spread_back)
        assert found.flatten().tolist() == expected


def test_bicubic_interpolation_keeps_the_sum_with_weights_of_either_sign():
    value = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    relevance = torch.zeros(1, 1, 8, 8)
    relevance[0, 0, 3, 3] = 1
    up = nn.Upsample(scale_factor=2, mode="bicubic")
    found = through(up, value, relevance, rules.spread_back_signed)
    weights = torch.stack([up(one.view(1, 1, 4, 4))[0, 0, 3, 3] for one in torch.eye(16)]).view(4, 4)
    torch.testing.assert_close(found[0, 0], weights, rtol=1e-5, atol=1e-7)
    assert found.min() < 0
    assert found.sum() == pytest.approx(1, abs=1e-6)


# ---- what models return


@dataclass
class ClassifierOutput:
    logits: torch.Tensor
    hidden_states: tuple | None = None


@dataclass
class ModelOutput(OrderedDict):
    """As of Hugging Face: a dataclass that holds its fields as a dictionary too, without those that are None."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


Pair = namedtuple("Pair", "logits features")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: ClassifierOutput(y),
        lambda y: ClassifierOutput(logits=y, hidden_states=(y, y)),
        lambda y: ModelOutput(logits=y),
        lambda y: {"logits": y, "loss": y.sum()},
        lambda y: {"anything": y},
        lambda y: (y,),
        lambda y: Pair(y, y * 2),
    ],
    ids=[
        "dataclass",
        "dataclass with more",
        "dataclass and dict",
        "dict",
        "dict of one",
        "tuple of one",
        "named tuple",
    ],
)
def test_scores_are_found_in_what_a_model_returns(wrap, lrp):
    ended = relprop.LRP(Ends(wrap).eval(), keep=["conv2"])
    expected = lrp(X, 1)
    for x in (X, X[:1]):  # one capture serves any batch
        torch.testing.assert_close(ended(x, 1).relevance, expected.relevance[: len(x)])
    assert ended(X, 1).at("conv2").shape == (2, 4, 8, 8)


# ---- messages


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Contrast(1, 1), "a contrast needs two classes; class 1 against 1 compares one with itself"),
        (Contrast(1, 9), "class 9 does not exist: the model has 5 classes, 0 to 4"),
        (Contrast([1, 2, 3], 0), r"classes have shape \(3,\) for 2 image"),
        (Value(), r"returns 5 numbers an image; say which to explain: Value\(0\)"),
        (Binary(), r"one output an image; this one has \(2, 5\)"),
        (Mask(1), r"outputs \(N, classes, H, W\); this model returns \(2, 5\)"),
        (
            Given(torch.zeros(3)),
            r"start with is \(3,\) torch.float32; it must be a tensor in the output's shape, \(2, 5",
        ),
        (Given(torch.full((2, 5), torch.nan)), "holds NaN or infinite"),
        (lambda y: y.softmax(1)[:, 0], "an offset, a softmax or a product has no exact share"),
        (lambda y: y[:, 0] + 1, "the target <lambda> is .* where its gradient shares out"),
        (lambda y: y[0], r"returned \(5,\) for an output of shape \(2, 5\); it must return one value an image, \(2,\)"),
        (lambda y: 3, "returned int for an output"),
        (lambda y: torch.ones(2), "does not depend on the output"),
        ([lambda y: y[0]] * 3, r"there are 3 targets for 2 image\(s\)"),
    ],
)
def test_targets_that_do_not_fit(lrp, target, message):
    with pytest.raises(TargetError, match=message):
        lrp(X, target)


def test_masks_that_do_not_fit():
    y = torch.zeros(1, 2, 2, 2)
    for mask, message in (
        (torch.ones(2, 2), "a mask holds True and False, not torch.float32"),
        (torch.ones(3, 2, dtype=torch.bool), r"the mask has shape \(3, 2\); it must be \(2, 2\) or \(1, 2, 2\)"),
        (torch.zeros(2, 2, dtype=torch.bool), "the mask is empty in image 0"),
        (None, "class 1 is predicted nowhere in image 0"),
    ):
        with pytest.raises(TargetError, match=message):
            Mask(1, mask).relevance(y, "logit")


def test_one_output_has_no_softmax():
    model = Ends(lambda y: y[:, :1]).eval()
    with pytest.raises(TargetError, match=r"softmax is 1 whatever it says; explain it with relprop.targets.Binary\(\)"):
        relprop.explain(model, X)
    assert relprop.explain(model, X, start="logit").score.tolist() == pytest.approx(model(X).flatten().tolist())


def test_start_and_target_exclude_each_other(lrp):
    with pytest.raises(UsageError, match="so it goes without a target"):
        lrp(X, 1, start=torch.ones(2, 5))


# ---- multi-label


class Labels(Tiny):
    """Says yes or no to each of five classes: ends in a sigmoid."""

    def forward(self, x):
        return super().forward(x).sigmoid()


def test_a_label_begins_with_its_own_probability_by_hand():
    begun = begin(Sigmoid([[0, 2], [1, 0]]), tensor([[0.0, 2.0, -3.0], [0.0, 4.0, 5.0]]), "probability")
    assert begun.link == "sigmoid"
    assert begun.target.tolist() == [[0, 2], [1, 0]]
    expected = [[[0.5, 0, 0], [0, 0.9820137900379085, 0]], [[0, 0, 0.04742587317756678], [0.5, 0, 0]]]
    for (relevance, score), column in zip(begun.columns, expected, strict=True):
        torch.testing.assert_close(relevance, tensor(column))
        torch.testing.assert_close(score, tensor(column).sum(1))
    by_logit = begin(Sigmoid(1), Y, "logit")
    assert by_logit.columns[0][0].tolist() == [[0, 2, 0], [0, 4, 0]]


@pytest.mark.parametrize(
    ("index", "target"),
    [(None, None), (2, [2, 2]), ([1, 4], [1, 4]), ([[0, 3], [4, 1]], [[0, 3], [4, 1]]), ([[0, 3]], [[0, 3], [0, 3]])],
)
def test_labels_of_logits_are_those_of_a_model_that_ends_in_a_sigmoid(index, target):
    plain, ends = relprop.LRP(Tiny(), strict=True), relprop.LRP(Labels(), strict=True)
    theirs = ends(X[:2], target)
    ours = plain(X[:2], Sigmoid(index))
    assert torch.equal(ours.relevance, theirs.relevance)
    assert torch.equal(ours.target, theirs.target)
    assert ours.link == theirs.link == "sigmoid"
    torch.testing.assert_close(ours.score, ours.logits.sigmoid().gather(1, ours.target.view(2, -1)).view_as(ours.score))
    assert torch.equal(ours.probability, ours.score)
    sums = ours.relevance.sum((-3, -2, -1))
    torch.testing.assert_close(sums, ours.score, rtol=1e-5, atol=1e-6)


def test_a_label_from_its_logit():
    ours = relprop.LRP(Tiny(), strict=True)(X[:2], Sigmoid([1, 4]), start="logit")
    assert torch.equal(ours.score, ours.logits[[0, 1], [1, 4]])
    assert torch.equal(ours.probability, ours.score.sigmoid())


def test_a_configuration_may_say_that_a_model_is_multi_label():
    class Configuration:
        problem_type = "multi_label_classification"

    model = Tiny()
    model.config = Configuration()
    known, told = relprop.explain(model, X[:2], 3), relprop.explain(Tiny(), X[:2], Sigmoid(3))
    assert torch.equal(known.relevance, told.relevance)
    assert known.link == "sigmoid"
    model.config.problem_type = "single_label_classification"
    assert relprop.explain(model, X[:2], 3).link == "softmax"


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.LogSigmoid()])
@pytest.mark.parametrize("target", [Value(1), lambda y: y[:, 1] - y[:, 3], [lambda y: y[4], Value(2)]])
def test_numbers_and_functions_are_of_what_the_model_returns(end, target):
    model = nn.Sequential(Tiny().double(), end).eval()
    y = model(X[:2].double()).detach()
    result = relprop.explain(model, X[:2].double(), target)
    expected = torch.stack([y[0, 4], y[1, 2]]) if isinstance(target, list) else y[:, 1] - y[:, 3] * callable(target)
    torch.testing.assert_close(result.score, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(result.heatmap.sum((1, 2)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("end", "link"), [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(1), "softmax"), (nn.Sigmoid(), "sigmoid")]
)
def test_a_contrast_is_of_the_probabilities_that_the_model_ends_in(end, link):
    model = nn.Sequential(Tiny(), end).eval()
    result = relprop.explain(model, X[:2], Contrast(1, 2))
    p = result.probabilities
    torch.testing.assert_close(
        p, model(X[:2]).detach().exp() if isinstance(end, nn.LogSoftmax) else model(X[:2]).detach()
    )
    torch.testing.assert_close(result.score, p[:, 1] - p[:, 2])
    assert torch.equal(relprop.explain(Tiny(), X[:2], Contrast(1, 2, link)).relevance, result.relevance)
    assert torch.equal(relprop.explain(model, X[:2], [Contrast(1, 2)] * 2).relevance, result.relevance)


MIXED = {
    "mean of two": lambda y: torch.stack([y.softmax(1), (2 * y).softmax(1)]).mean(0),
    "weighed by a softmax": lambda y: (y[:, :2].softmax(1)[:, :, None] * torch.stack([y, -y], 1).softmax(2)).sum(1),
    "other order": lambda y: y.softmax(1)[:, [1, 0, 2, 4, 3]],
    "mirrored": lambda y: y.softmax(1).flip(1),
    "a part": lambda y: y.softmax(1)[:, 1:4],
    "exp of log": lambda y: y.log_softmax(1).exp(),
    "clamped": lambda y: y.softmax(1).clamp(1e-7, 1 - 1e-7),
    "another type": lambda y: y.softmax(1).float(),
    "one less a sigmoid": lambda y: 1 - y.sigmoid(),
    "no and yes": lambda y: torch.cat([1 - y[:, :1].sigmoid(), y[:, :1].sigmoid()], 1),
    "log of a mean": lambda y: torch.stack([y.softmax(1), (2 * y).softmax(1)]).mean(0).log(),
    "copied": lambda y: y.softmax(1).clone(),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_is_made_of_probabilities_is_a_probability(name):
    model, x = Ends(MIXED[name]).double().eval(), X[:2].double()
    p = model(x).detach().double()
    p = p.exp() if "log of" in name else p
    result = relprop.explain(model, x, 1)
    torch.testing.assert_close(result.score.double(), p[:, 1])
    torch.testing.assert_close(result.probabilities.double(), p)
    torch.testing.assert_close(result.heatmap.double().sum((1, 2)), p[:, 1])
    assert result.ledger.gap < 1e-6
    torch.testing.assert_close(relprop.explain(model, x, Contrast(1, 0)).score.double(), p[:, 1] - p[:, 0])


def test_scores_that_are_weighed_by_a_softmax_are_no_probabilities():
    model = Ends(lambda y: y.softmax(1) * y).eval()
    result = relprop.explain(model, X[:2], 1)
    torch.testing.assert_close(result.score, model(X[:2]).softmax(1)[:, 1].detach())


@pytest.mark.parametrize("yes", [True, False])
def test_yes_or_no_of_one_probability(yes):
    model = Ends(lambda y: y[:, :1].sigmoid().squeeze(1)).eval()
    result, p = relprop.explain(model, X[:2], Binary(yes)), model(X[:2]).detach()
    torch.testing.assert_close(result.score, p if yes else 1 - p)
    torch.testing.assert_close(relprop.explain(model, X[:2], Value()).score, p)


def test_a_segmentation_of_yes_and_no():
    torch.manual_seed(0)
    scores = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    model, region = nn.Sequential(scores, nn.Sigmoid()).eval(), torch.zeros(X.shape[2:], dtype=torch.bool)
    region[1:4, 2:5] = True
    p = model(X[:2]).detach()[:, 0]
    known, told = (
        relprop.explain(model, X[:2], Mask(0, region)),
        relprop.explain(scores, X[:2], Mask(0, region, "sigmoid")),
    )
    torch.testing.assert_close(known.score, p[:, 1:4, 2:5].mean((1, 2)))
    assert torch.equal(known.relevance, told.relevance)
    by_prediction = relprop.explain(model, X[:2], Mask(0))
    torch.testing.assert_close(by_prediction.score, torch.stack([image[image > 0.5].mean() for image in p]))


def test_links_that_there_are_not():
    with pytest.raises(UsageError, match="link must be 'softmax' or 'sigmoid', not 'sigmod'"):
        relprop.explain(Tiny(), X[:2], Contrast(1, 2, "sigmod"))


def test_labels_in_parts_and_saved(tmp_path):
    lrp = relprop.LRP(Tiny())
    whole, parts = lrp(X[:3], Sigmoid([[0, 3]])), relprop.LRP(Tiny(), chunk=1)(X[:3], Sigmoid([[0, 3]]))
    torch.testing.assert_close(whole.relevance, parts.relevance)
    assert parts.link == "sigmoid"
    saved = relprop.Relevance.load(whole.save(tmp_path / "labels"))
    assert torch.equal(saved.probability, whole.probability)


def test_labels_that_a_model_does_not_have_are_refused():
    with pytest.raises(TargetError, match="class 9 does not exist: the model has 5 classes, 0 to 4"):
        relprop.explain(Tiny(), X[:2], Sigmoid(9))
    with pytest.raises(TargetError, match=r"target has shape \(3,\) for 2 image"):
        relprop.explain(Tiny(), X[:2], Sigmoid([1, 2, 3]))
