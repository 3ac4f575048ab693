"""What explainers compute, on networks where it can be worked out by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from explainer_networks import Plain, Residual, made
from torch import Tensor, nn, tensor

from relprop import LRP, released
from relprop.errors import CheckError, InputError, UnsupportedOpError, UsageError
from relprop.explainers import EXPLAINERS, POST


class Gated(nn.Module):
    """y = v · relu(w * x), pixel by pixel; class 0 is nothing. `spelling` of the ReLU is up to the test."""

    def __init__(self, spelling) -> None:
        super().__init__()
        self.w = nn.Parameter(tensor([1.0, -1.0, 1.0, 2.0]).view(1, 1, 2, 2))
        self.v = nn.Parameter(tensor([1.0, 1.0, -1.0, 3.0]).view(1, 1, 2, 2))
        self.spelling = spelling() if isinstance(spelling, type) else spelling

    def forward(self, x: Tensor) -> Tensor:
        total = (self.v * self.spelling(self.w * x)).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(total), total], 1)


X = tensor([[[[2.0, 3.0], [1.0, 4.0]]]])  # relu sees 2, -3, 1, 8
ONE = tensor([1])


def explain(spec, model, x=X, target=ONE):
    return EXPLAINERS.build(spec)(model.eval(), x, target)[0].tolist()


def test_gradient_methods_by_hand():
    # gradient: 1, 0 (gated), -1, 6
    assert explain("input-x-gradient", Gated(nn.ReLU)) == [[2, 0], [-1, 24]]
    flat = [v for row in explain("integrated-gradients", Gated(nn.ReLU)) for v in row]
    assert flat == pytest.approx([2, 0, -1, 24], abs=1e-5)  # homogeneous: the same


@pytest.mark.parametrize(
    "spelling",
    [nn.ReLU, torch.relu, torch.nn.functional.relu, Tensor.relu, Tensor.relu_, lambda x: nn.functional.relu(input=x)],
)
def test_guided_backprop_sees_every_spelling_of_relu(spelling):
    assert explain("guided-backprop", Gated(spelling)) == [[1, 0], [0, 6]]  # the negative gradient is cut


@pytest.mark.parametrize(
    "spelling", [nn.ReLU6, torch.nn.functional.relu6, lambda x: nn.functional.hardtanh(x, 0.0, 6.0)]
)
def test_guided_backprop_sees_relu6_which_is_flat_above_6(spelling):
    assert explain("guided-backprop", Gated(spelling)) == [[1, 0], [0, 0]]


def test_guided_backprop_refuses_a_network_without_relu():
    with pytest.raises(UsageError, match="guided-backprop needs a network with ReLU"):
        explain("guided-backprop", Gated(torch.nn.functional.gelu))


class Mapped(nn.Module):
    """Two feature maps of 2 x 2 out of a picture of 4 x 4, averaged and weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, 2, 2, stride=2, bias=False))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.stage[0].weight.copy_(tensor([1.0, 0, 0, 0, 0, 0, 0, 1]).view(2, 1, 2, 2))
            self.fc.weight.copy_(tensor([[0.0, 0], [4, -8]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.stage(x)).flatten(1))


CORNERS = torch.zeros(1, 1, 4, 4)
CORNERS[0, 0, 0, 0] = 3  # first map, top left
CORNERS[0, 0, 3, 3] = 5  # second map, bottom right


def test_grad_cam_by_hand():
    # gradient of the score is weight / 4 at each pixel: 1 and -2; maps add up to 3 and -10
    signed = explain("grad-cam:relu=no", Mapped(), CORNERS)
    assert (signed[0][0], signed[3][3]) == (3, -10)
    assert signed[0][1] == pytest.approx(0.75 * 3)  # bilinear, between pixel centres
    positive = explain("grad-cam", Mapped(), CORNERS)
    assert (positive[0][0], positive[3][3]) == (3, 0)
    assert explain("grad-cam:layer=stage.0", Mapped(), CORNERS) == positive


def test_grad_cam_can_quantize_before_it_resizes_as_released():
    small = explain("grad-cam:relu=no:quantize=2", Mapped(), CORNERS)
    # two levels, -10 and the maximum, 3: only the top left corner is at the top
    assert (small[0][0], small[0][3], small[3][3]) == (3, -10, -10)


def test_score_cam_by_hand():
    # each map scaled to [0, 1] and laid over the picture; the whole picture scores 4 · 3/4 - 8 · 5/4 = -7
    with torch.no_grad():
        seen = []
        for row, column in ((0, 0), (1, 1)):
            mask = torch.zeros(1, 1, 2, 2)
            mask[0, 0, row, column] = 1
            large = torch.nn.functional.interpolate(mask, (4, 4), mode="bilinear", align_corners=False)
            seen.append(Mapped()(CORNERS * large)[0, 1] + 7)
    weights = torch.stack(seen).softmax(0)
    found = explain("score-cam:batch=1", Mapped(), CORNERS)
    assert found[0][0] == pytest.approx(3 * weights[0].item(), rel=1e-5)
    assert found[3][3] == pytest.approx(5 * weights[1].item(), rel=1e-5, abs=1e-6)


def test_score_cam_as_released_by_hand():
    # the probability of the class behind each map, times that map at the picture's size; no softmax over channels
    model = Mapped().eval()
    with torch.no_grad():
        expected = torch.zeros(4, 4)
        for large in nn.functional.interpolate(model.stage(CORNERS), (4, 4), mode="bilinear", align_corners=False)[0]:
            mask = (large - large.min()) / (large.max() - large.min())
            expected += model(CORNERS * mask).softmax(1)[0, 1] * large
    found = tensor(explain("score-cam:weights=probability", model, CORNERS))
    assert torch.allclose(found, expected.clamp(min=0), atol=1e-5)
    signed = tensor(explain("score-cam:weights=probability:relu=no", model, CORNERS))
    assert torch.allclose(signed, expected, atol=1e-5)
    assert not torch.allclose(found, tensor(explain("score-cam", model, CORNERS)), atol=1e-2)


def test_score_cam_as_released_leaves_flat_channels_out():
    calls = []

    class Counted(Mapped):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    model = Counted()
    with torch.no_grad():
        model.stage[0].weight[1] = 0
    found = explain("score-cam:weights=probability", model, CORNERS)
    assert sum(calls[-1:]) == 1  # of two channels one is flat
    assert tensor(found).isfinite().all()


def test_layer_cam_by_hand():
    # each value times its own positive gradient: those of the class's score for the two maps are 1 and -2 over 4
    model = Mapped().eval()
    x = CORNERS.clone().requires_grad_()
    maps = model.stage(x)
    gradient = torch.autograd.grad(model.fc(model.pool(maps).flatten(1))[0, 1], maps)[0]
    small = (gradient.clamp(min=0) * maps).sum(1).clamp(min=0)
    large = nn.functional.interpolate(small[None], (4, 4), mode="bilinear", align_corners=False)[0, 0]
    assert torch.allclose(tensor(explain("layer-cam", model, CORNERS)), large, atol=1e-5)


def test_rise_finds_the_pixels_that_matter():
    class Corner(nn.Module):
        def forward(self, x):
            seen = 8 * x[:, 0, :4, :4].mean((1, 2)) - 4
            return torch.stack([torch.zeros_like(seen), seen], 1)

    heat = EXPLAINERS.build("rise:masks=400:grid=4")(Corner().eval(), torch.ones(1, 1, 16, 16), ONE)[0]
    assert heat[:4, :4].mean() > 1.2 * heat[8:, 8:].mean()
    flat = EXPLAINERS.build("rise:masks=2000:grid=4:p=0.3")(
        nn.Sequential(nn.Flatten(), nn.Linear(256, 2)).eval(), torch.zeros(1, 1, 16, 16), ONE
    )
    assert flat.std() / flat.mean() < 0.1  # a score that depends on nothing marks no place
    with pytest.raises(UsageError, match="p between 0 and 1"):
        EXPLAINERS.build("rise:p=1")


@pytest.mark.parametrize("spec", ["rise:masks=40:grid=2", "score-cam:weights=probability"])
def test_probabilities_that_a_model_returns_are_not_taken_for_scores(spec):
    plain = Mapped().eval()
    assert explain(spec, nn.Sequential(plain, nn.Softmax(1)), CORNERS) == explain(spec, plain, CORNERS)


@pytest.mark.parametrize("name", ["grad-cam", "layer-cam", "score-cam"])
def test_cams_say_which_layers_there_are(name):
    with pytest.raises(UsageError, match="no layer 'stag'; near are: stage"):
        explain(f"{name}:layer=stag", Mapped(), CORNERS)
    with pytest.raises(InputError, match="no layer of Sequential ends in a map"):
        explain(name, nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), CORNERS)


def test_cams_read_the_last_stage_of_a_resnet():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model, x = resnet18(num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    found = EXPLAINERS.build("grad-cam")(model, x, ONE)
    for layer in ("layer4", "layer4.1"):  # the paper's two names of it
        assert torch.equal(found, EXPLAINERS.build(f"grad-cam:layer={layer}")(model, x, ONE))
    assert not torch.equal(found, EXPLAINERS.build("grad-cam:layer=layer3")(model, x, ONE))


def test_lrp_is_the_engine_with_the_composite_asked_for():
    model, x, target = made(Residual), torch.randn(2, 3, 8, 8), tensor([0, 2])
    expected = LRP(model, composite=released(split="symmetric", identity=False))(x, target=target)
    found = EXPLAINERS.build("lrp:released:symmetric:no")(model, x, target)
    assert torch.equal(found, expected.heatmap)
    red = EXPLAINERS.build("lrp:released:symmetric:no:channels=red")(model, x, target)
    assert torch.equal(red, expected.relevance[:, 0])
    with pytest.raises(UsageError, match="no option 'g'"):
        EXPLAINERS.build("lrp:g=0.5")


def test_lrp_plans_once_and_follows_the_weights_and_modules(monkeypatch):
    from relprop.core.backward import plan as engine

    seen = []
    original = engine.graph_of
    monkeypatch.setattr(engine, "graph_of", lambda *a: seen.append(1) or original(*a))
    model, x = made(Plain), torch.randn(2, 3, 8, 8)
    explainer = EXPLAINERS.build("lrp")
    first = explainer(model, x, tensor([0, 1]))
    assert torch.equal(explainer(model, x, tensor([0, 1])), first)
    assert len(seen) == 1
    with torch.no_grad():
        model.conv.weight.mul_(-1)
    assert torch.equal(explainer(model, x, tensor([0, 1])), EXPLAINERS.build("lrp")(model, x, tensor([0, 1])))
    assert len(seen) == 2  # once for each explainer
    model.relu = nn.Identity().eval()
    changed = explainer(model, x, tensor([0, 1]))
    assert torch.equal(changed, EXPLAINERS.build("lrp")(model, x, tensor([0, 1])))
    assert len(seen) == 4


def test_lrp_holds_two_models_and_no_more():
    explainer, models = EXPLAINERS.build("lrp"), [made(Plain, seed) for seed in range(3)]
    alive = [weakref.ref(model) for model in models]
    for model in models:
        explainer(model, torch.randn(1, 3, 8, 8), tensor([0]))
    del model, models
    gc.collect()
    assert [one() is not None for one in alive] == [False, True, True]


class Cubic(nn.Module):
    """Captum has a rule for none of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.norm, self.fc = nn.GELU(), nn.GroupNorm(1, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.act(x)).mean((2, 3)))


def test_captums_lrp_names_all_modules_that_it_cannot_handle():
    with pytest.raises(UnsupportedOpError, match=r"no rule for act \(GELU\), norm \(GroupNorm\); it knows"):
        explain("captum-lrp", Cubic(), torch.randn(1, 3, 4, 4))


def test_captums_lrp_reports_a_failure_and_no_numbers():
    from torchvision.models import resnet34

    torch.manual_seed(0)
    model, x, target = resnet34(num_classes=10).eval(), torch.randn(2, 3, 32, 32), tensor([0, 1])
    with pytest.raises(
        CheckError, match=r"lost count on ResNet at picture\(s\) 0, 1 of 2: .* sums to .*e\+\d\d for a score"
    ):
        EXPLAINERS.build("captum-lrp")(model, x, target)
    assert EXPLAINERS.build("captum-lrp:limit=inf")(model, x, target).abs().max() > 1e6
    with pytest.raises(CheckError, match="lost count"):
        EXPLAINERS.build("captum-lrp:limit=inf")(model, x * float("nan"), target)


def test_captums_lrp_gives_its_own_numbers_where_it_can():
    from captum.attr import LRP as CAPTUM

    x = torch.rand(2, 3, 8, 8)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(UnsupportedOpError, match="Flatten"):
        EXPLAINERS.build("captum-lrp")(model, x, tensor([0, 1]))
    model = made(Plain)
    alone = made(Plain)
    alone.relu.inplace = False
    with pytest.warns(UserWarning, match="did not already require gradients"):
        expected = CAPTUM(alone).attribute(x, target=tensor([0, 1])).sum(1).detach()
    assert torch.allclose(EXPLAINERS.build("captum-lrp")(model, x, tensor([0, 1])), expected)


def test_controls_by_hand():
    x = torch.zeros(2, 3, 5, 5)
    x[:, :, :, 3:] = 2.0  # an edge between columns 2 and 3
    assert torch.equal(EXPLAINERS.build("constant")(None, x, None), torch.ones(2, 5, 5))
    assert EXPLAINERS.build("sobel")(None, x, None)[0].tolist() == [[0, 0, 8, 8, 0]] * 5
    bump = EXPLAINERS.build("gaussian:sigma=0.2")(None, x, None)[0]
    assert bump.argmax() == 12
    assert bump[2, 3].item() == pytest.approx(torch.tensor(-0.5).exp().item())  # one pixel is .2 of the side
    assert torch.equal(bump, bump.T)


def test_random_maps_belong_to_the_picture_and_the_seed():
    x = torch.randn(3, 3, 6, 6)
    first = EXPLAINERS.build("random")(None, x, None)
    assert len({float(one.sum()) for one in first}) == 3
    assert torch.equal(EXPLAINERS.build("random")(None, x[[2, 1]], None), first[[2, 1]])
    assert not torch.equal(EXPLAINERS.build("random:seed=1")(None, x, None), first)
    assert 0 <= first.min() < first.max() < 1


def test_smoothing_keeps_the_total_and_spreads_by_sigma():
    dot = torch.zeros(3, 41, 41)
    dot[0, 20, 20], dot[1, 0, 0], dot[2, 3, 40] = 1.0, 2.0, -3.0
    found = POST.build("smooth:2.5")(dot)
    assert found.sum((1, 2)).tolist() == pytest.approx([1, 2, -3], abs=1e-5)
    rows = (torch.arange(41) - 20.0) ** 2
    assert (found[0].sum(1) * rows).sum().item() == pytest.approx(2.5**2, rel=1e-3)
    still = torch.full((1, 9, 12), 0.25)
    assert torch.allclose(POST.build("smooth:2.5")(still), still)  # it prefers no place, the middle neither
    with pytest.raises(UsageError, match="smooth needs a positive width"):
        POST.build("smooth:0")


def test_the_other_steps_by_hand():
    heat = tensor([[[-2.0, 0.0], [1.0, 6.0]]])
    assert POST.build("none")(heat) is heat
    assert POST.build("positive")(heat).tolist() == [[[0, 0], [1, 6]]]
    assert POST.build("absolute")(heat).tolist() == [[[2, 0], [1, 6]]]
    assert POST.build("quantize:4")(heat).tolist() == [[[-2, 0], [0, 6]]]  # edges -2 0 2 4 6
    assert POST.build("quantize:3:edges=release")(heat).tolist() == [[[-2, -2], [-2, 6]]]  # edges -2 2 6
