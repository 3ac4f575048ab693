"""The score of a detection, the mask of an instance: torchvision's detectors and a head like YOLO's, as they are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn, tensor

import relprop
from relprop.errors import CaptureError, TargetError

pytest.importorskip("torchvision")

from core_detectors import detector, images
from torchvision.ops import roi_align

from relprop.core.targets import Detection, InstanceMask

NAMES = ("retinanet", "fcos", "ssd", "faster-rcnn", "mask-rcnn", "yolo")
GAP = {torch.float32: 1e-6, torch.float64: 1e-12}


def found(model: nn.Module, x: Tensor) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        return model(x)


def lost(result: relprop.Relevance) -> Tensor:
    """(N,) the part of the score that did not arrive."""
    total = result.relevance.double().flatten(1).sum(1)
    return (result.score.double() - total) / result.score.double()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=pytest.mark.slow if dtype == torch.float32 and name != "retinanet" else ())
        for name in NAMES
        for dtype in GAP
    ],
)
def test_relevance_sums_to_the_score_of_a_detection(name, dtype):
    model, x = detector(name).to(dtype), images(1, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for number in (0, 3):
        result = relprop.explain(model, x, target=Detection(number))
        torch.testing.assert_close(result.score, found(model, x)[0]["scores"][number : number + 1])
        assert result.ledger.gap < GAP[dtype]
        named = sum(float(torch.as_tensor(entry.received - entry.sent).abs().sum()) for entry in result.ledger.entries)
        assert float(lost(result).abs()) < GAP[dtype] + named / float(result.score)
        torch.testing.assert_close(result.ledger.absorbed, float(lost(result)), rtol=0, atol=GAP[dtype])
        assert (result.relevance > -1e-9).all()
        assert (result.what, result.target.tolist()) == (f"detection {number}", [-1])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["fcos", "faster-rcnn"])
def test_nothing_is_absorbed_where_the_detector_adds_no_padding(name):
    """Sizes that are no multiple of 32 are padded; what falls on units that see nothing else is absorbed, and named."""
    model = detector(name).double()
    padded = relprop.explain(model, images(1, torch.float64), target=Detection(0))
    assert 0.001 < padded.ledger.absorbed < 0.05
    whole = relprop.explain(model, images(1, torch.float64)[..., :32], target=Detection(0))
    assert whole.ledger.absorbed == 0
    assert float(lost(whole).abs()) < 1e-12


@pytest.mark.parametrize("name", ["retinanet", "ssd", "faster-rcnn", "yolo"])
def test_a_detection_by_a_box_near_it_and_by_its_class(name):
    model, x = detector(name).double(), images(1, torch.float64)
    (one,) = found(model, x)
    box = one["boxes"][2] + tensor([0.4, -0.3, 0.5, 0.2])
    expected = relprop.explain(model, x, target=Detection(2)).relevance
    assert torch.equal(relprop.explain(model, x, target=Detection(box=box)).relevance, expected)
    assert torch.equal(relprop.explain(model, x, target=Detection(box=tuple(box.tolist()))).relevance, expected)
    label = int(one["labels"][3])
    rank = int((one["labels"][:3] == label).sum())
    by_class = Detection(rank, label=label)
    assert by_class.numbers([one]) == [3]
    result = relprop.explain(model, x, target=by_class)
    assert torch.equal(result.score, one["scores"][3:4])
    assert result.what == f"detection of class {label} {rank}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("fcos", "mask-rcnn") else name for name in NAMES]
)
def test_images_of_a_batch_are_explained_as_alone(name):
    model, x = detector(name).double(), images(3, torch.float64)
    numbers = [2, 0, 1]
    batch = relprop.explain(model, x, target=Detection(numbers))
    for place, number in enumerate(numbers):
        alone = relprop.explain(model, x[place : place + 1], target=Detection(number))
        torch.testing.assert_close(batch.relevance[place], alone.relevance[0])
        torch.testing.assert_close(batch.score[place], alone.score[0])
    if name == "fcos":
        return  # it finds one box for two classes
    boxes = torch.stack([one["boxes"][number] for one, number in zip(found(model, x), numbers, strict=True)])
    torch.testing.assert_close(relprop.explain(model, x, target=Detection(box=boxes)).relevance, batch.relevance)


def test_the_same_as_the_logit_before_any_box_was_chosen():
    """RetinaNet's score is the sigmoid of one logit of its head: explain the head, from that score at that logit."""

    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.training = model, False

        def forward(self, x):
            batch, _ = self.model.transform([*x])
            return self.model.head([*self.model.backbone(batch.tensors).values()])["cls_logits"]

    model, x = detector("retinanet").double(), images(1, torch.float64)
    score = found(model, x)[0]["scores"][1]
    with torch.no_grad():
        probability = Logits(model).eval()(x).sigmoid()
    at = (probability - score).abs() < 1e-12
    assert at.sum() == 1
    expected = relprop.explain(Logits(model).eval(), x, start=torch.where(at, score, 0))
    torch.testing.assert_close(relprop.explain(model, x, target=Detection(1)).relevance, expected.relevance)


def test_the_mask_of_an_instance():
    model, x = detector("mask-rcnn").double(), images(2, torch.float64)
    both = found(model, x)
    result = relprop.explain(model, x, target=InstanceMask(1))
    for place, one in enumerate(both):
        mask = one["masks"][1]
        torch.testing.assert_close(result.score[place], mask[mask > 0.5].mean())
    assert result.ledger.gap < 1e-12
    torch.testing.assert_close(result.ledger.absorbed, float(lost(result).max()), rtol=0, atol=1e-12)
    assert result.what == "mask of detection 1"
    region = torch.zeros(32, 40, dtype=torch.bool)
    x1, y1, x2, y2 = both[0]["boxes"][1].round().long().tolist()
    region[y1 : (y1 + y2) // 2 + 1, x1 : (x1 + x2) // 2 + 1] = True
    corner = relprop.explain(model, x[:1], target=InstanceMask(1, mask=region))
    torch.testing.assert_close(corner.score[0], both[0]["masks"][1, 0][region].mean())
    with pytest.raises(TargetError, match=r"mask must be bool of shape \(32, 40\), not \(3, 3\)"):
        relprop.explain(model, x[:1], target=InstanceMask(1, mask=torch.ones(3, 3, dtype=torch.bool)))
    with pytest.raises(TargetError, match="the mask is empty in image 0"):
        relprop.explain(model, x[:1], target=InstanceMask(1, mask=torch.zeros(32, 40, dtype=torch.bool)))
    with pytest.raises(TargetError, match=r"mask of detection 0 needs a model that returns masks \(K, 1, H, W\)"):
        relprop.explain(detector("ssd"), images(), target=InstanceMask(0))


class Rows(nn.Module):
    """Returns (N, boxes, 4 + classes), as many detectors of others do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 7, 8, 8)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


def test_detections_of_another_form_are_read_by_a_function():
    def read(rows: Tensor) -> list[dict[str, Tensor]]:
        scores, labels = rows[..., 4:].sigmoid().max(2)
        return [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(rows[..., :4], scores, labels, strict=True)]

    model, x = Rows(), images(2)
    result = relprop.explain(model, x, target=Detection(7, read=read))
    expected = model(x).detach()[:, 7, 4:].sigmoid().amax(1)
    torch.testing.assert_close(result.score, expected)
    assert float(lost(result).abs().max()) < 1e-6
    assert (result.relevance[0] != 0).any(0).nonzero().amin(0).tolist() == [8, 16]  # cell 7 is in row 1, column 2


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Detection(5), "there is no detection 5 in the image: there are 5"),
        (Detection(-6), "there is no detection -6 in the image: there are 5"),
        (Detection(0, label=9), r"nothing of class 9 was detected in the image \(5 detections\).*box_score_thresh"),
        (Detection(box=(500, 500, 510, 510)), r"no detection in the image overlaps the box .*; nearest is \d, \("),
        (Detection([0, 1]), r"there are 2 detections to explain for 1 image\(s\); give one for each"),
        (Detection(read=lambda y: y[0]["boxes"]), "the model returned list, which is no list of detections"),
    ],
)
def test_messages(target, message):
    with pytest.raises(TargetError, match=message):
        relprop.explain(detector("ssd"), images(), target=target)


def test_a_box_of_another_shape_and_a_detector_without_a_target():
    with pytest.raises(TargetError, match=r"a box is \(x1, y1, x2, y2\).* not \(3,\)"):
        Detection(box=(1, 2, 3))
    with pytest.raises(CaptureError, match=r"returns detections.*say which one.*target=relprop.targets.Detection\(0\)"):
        relprop.explain(detector("ssd"), images())


# ---- RoI align by hand, and by a slow twin


class Align(nn.Module):
    def __init__(self, boxes: Tensor, size: int, scale: float = 1.0, samples: int = 2, aligned: bool = False) -> None:
        super().__init__()
        self.boxes, self.size = boxes, size
        self.options = {"spatial_scale": scale, "sampling_ratio": samples, "aligned": aligned}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return roi_align(x, [self.boxes], self.size, **self.options)


def test_roi_align_by_hand():
    """One sample in the middle of four values, 1, 3, 0 and -2: weights of a quarter, so R is shared as 1 : 3."""
    x = tensor([[[[1.0, 3.0], [0.0, -2.0]]]]).double()
    model = Align(tensor([[0.0, 0.0, 1.0, 1.0]]).double(), 1, samples=1)
    assert model(x).item() == 0.5
    result = relprop.explain(model, x, start=tensor([[[[8.0]]]]).double())
    assert result.relevance.tolist() == [[[[2.0, 6.0], [0.0, 0.0]]]]
    nothing = relprop.explain(model, -x.abs(), start=tensor([[[[8.0]]]]).double())
    assert nothing.relevance.tolist() == [[[[2.0, 2.0], [2.0, 2.0]]]]


def weights_by_loops(boxes: Tensor, height: int, width: int, model: Align) -> Tensor:
    """(K, cells, cells, H, W): what each cell averages, sample by sample (He et al. 2017, section 3)."""
    found = torch.zeros(len(boxes), model.size, model.size, height, width, dtype=torch.float64)
    scale, count, aligned = (model.options[key] for key in ("spatial_scale", "sampling_ratio", "aligned"))
    offset = 0.5 if aligned else 0.0
    for k, box in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (corner * scale - offset for corner in box)
        sides = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        step = [side / model.size for side in sides]
        for row, column in itertools.product(range(model.size), repeat=2):
            for i, j in itertools.product(range(count), repeat=2):
                y = y1 + (row + (i + 0.5) / count) * step[0]
                x = x1 + (column + (j + 0.5) / count) * step[1]
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
                for a, b in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
                    weight = max(0.0, 1 - abs(y - a)) * max(0.0, 1 - abs(x - b))
                    if weight:
                        found[k, row, column, a, b] += weight / count**2
    return found


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_equals_a_slow_twin(aligned):
    boxes = tensor([[0.0, 0.0, 14.0, 10.0], [3.3, 2.1, 9.7, 12.4], [5.0, 5.0, 5.5, 5.2], [8.0, -40.0, 30.0, 26.0]])
    model = Align(boxes.double(), 3, scale=0.5, samples=2, aligned=aligned)
    x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    start = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    weights = weights_by_loops(boxes, 6, 8, model)
    torch.testing.assert_close(model(x), torch.einsum("kabhw,chw->kcab", weights, x[0]), rtol=1e-6, atol=1e-6)
    expected = torch.zeros_like(x)
    for k, c, a, b in itertools.product(range(4), range(2), range(3), range(3)):
        parts = weights[k, a, b] * x[0, c].clamp(min=0)
        parts = parts if parts.sum() > 0 else weights[k, a, b]
        if parts.sum() > 0:
            expected[0, c] += start[k, c, a, b] * parts / parts.sum()
    outside = start[(weights.sum((3, 4)) == 0)[:, None].expand_as(start)].sum()
    assert outside > 0  # the last box begins above the map
    result = relprop.LRP(Whole(model))(x, start=start[None])
    torch.testing.assert_close(result.relevance, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(result.score - result.relevance.sum(), outside[None], rtol=1e-6, atol=1e-7)
    assert result.ledger.gap < 1e-12


class Whole(nn.Module):
    """One image's boxes as one output, (1, K, C, h, w)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[None]


# ---- choices and writes by hand


class Does(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def put(x: Tensor) -> Tensor:
    out = torch.zeros(1, 5, dtype=x.dtype)
    out[:, tensor([4, 0, 2])] = x[:, 1:]
    return out


def put_over(x: Tensor) -> Tensor:
    out = x + 0
    out[0, tensor([1, 3])] = x[0, 0]
    return out


def put_twice(x: Tensor) -> Tensor:
    out = torch.zeros(1, 3, dtype=x.dtype)
    out[:, tensor([1, 1, 0])] = x[:, 1:]
    return out


@pytest.mark.parametrize(
    ("function", "start", "expected"),
    [
        (lambda x: x.topk(2, dim=1)[0], [1, 2], [0, 2, 1, 0]),  # of (1, 5, 7, 3): 7 and 5
        (lambda x: x.sort(dim=1)[0], [1, 2, 3, 4], [1, 3, 4, 2]),
        (lambda x: x.sort(dim=1, descending=True, stable=True)[0], [1, 2, 3, 4], [4, 2, 1, 3]),
        (put, [1, 2, 3, 4, 5], [0, 5, 1, 3]),
        (put_over, [1, 2, 3, 4], [1 + 2 + 4, 0, 3, 0]),
        (put_twice, [1, 2, 3], [0, 1, 1, 1]),  # both were written to place 1
    ],
)
def test_choices_and_writes_by_hand(function, start, expected):
    x = tensor([[1.0, 5.0, 7.0, 3.0]]).double()
    result = relprop.explain(Does(function), x, start=tensor([start]).double())
    assert result.relevance.tolist() == [expected]


def test_images_that_are_sorted_are_not_told_apart():
    for function in (lambda x: x.sort(0)[0], lambda x: x.topk(len(x), 0)[0]):
        with pytest.raises(relprop.errors.UnsupportedOpError, match="do not stay apart at"):
            relprop.explain(Does(function), tensor([[2.0, 3.0], [1.0, 4.0]]), 1)


def test_images_that_change_places_in_their_batch_are_not_told_apart():
    net = nn.Linear(3, 2)
    x = torch.rand(3, 3, generator=torch.Generator().manual_seed(2))
    for function in (
        lambda x: net(x)[tensor([1, 2, 0])[: len(x)]] if len(x) > 1 else net(x),
        lambda x: net(x).index_select(0, tensor([1, 2, 0])) if len(x) > 1 else net(x),
        lambda x: net(x).gather(0, tensor([[1, 1], [2, 2], [0, 0]])) if len(x) > 1 else net(x),
    ):
        with pytest.raises(relprop.errors.UnsupportedOpError, match="do not stay apart at"):
            relprop.explain(Does(function), x, 1)


def test_places_within_each_image_may_differ_from_run_to_run():
    """A number of each image's own choice, as models of texts pick the last token: images stay where they are."""

    def pick(x: Tensor) -> Tensor:
        return x[torch.arange(len(x)), x[:, 0].long()]

    lrp = relprop.LRP(Does(lambda x: pick(x)[:, None]))
    for first, expected in (([1, 2], [[0, 5, 0], [0, 0, 8]]), ([2, 1], [[0, 0, 6], [0, 7, 0]])):
        x = tensor([[0.0, 5, 6], [0, 7, 8]])
        x[:, 0] = tensor(first)
        assert lrp(x, start="logit", target=0).relevance.tolist() == expected


def test_adding_up_at_places_has_no_rule():
    def add(x: Tensor) -> Tensor:
        return torch.zeros(1, 3).index_put((tensor([0]), tensor([1])), x[0, :1], accumulate=True)

    with pytest.raises(relprop.errors.UnsupportedOpError, match="accumulate=True"):
        relprop.explain(Does(add), torch.ones(1, 4), 1)
