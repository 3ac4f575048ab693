"""The captum adapter beside captum's own LRP, and in captum's own tools."""

from __future__ import annotations

import pytest
import torch
from adapter_networks import Residual, images, plain
from torch import nn

import relprop
from relprop.errors import TargetError

captum = pytest.importorskip("captum")

from captum.attr import Attribution, NoiseTunnel, visualization  # noqa: E402
from captum.metrics import infidelity, sensitivity_max  # noqa: E402

from relprop.adapters.captum import LRP  # noqa: E402

X, TARGET = images(), [0, 3, 1]


@pytest.fixture(scope="module")
def residual():
    return LRP(Residual())


def test_it_equals_captums_lrp_where_captum_is_right():
    """captum's default is the ε-rule at every layer, with ε 1e-9."""
    model = plain()
    ours, our_delta = LRP(model, relprop.epsilon(1e-9)).attribute(X, target=TARGET, return_convergence_delta=True)
    theirs, their_delta = captum.attr.LRP(plain()).attribute(
        X.clone().requires_grad_(), target=TARGET, return_convergence_delta=True
    )
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(our_delta, their_delta.detach(), rtol=0, atol=1e-5)


def test_it_is_an_attribution_and_conserves_where_captum_does_not(residual):
    assert isinstance(residual, Attribution)
    assert residual.get_name() == "L R P"
    assert residual.has_convergence_delta()
    found, delta = residual.attribute(X, target=TARGET, return_convergence_delta=True)
    logits = Residual()(X).detach()[range(3), TARGET]
    torch.testing.assert_close(found.flatten(1).sum(1), logits, rtol=1e-5, atol=1e-6)
    assert delta.shape == (3,)
    assert delta.abs().max() < 1e-6
    assert torch.equal(found, relprop.explain(Residual(), X, TARGET, start="logit").relevance)


def test_relevance_may_start_from_the_probability():
    found = LRP(Residual(), start="probability").attribute(X, target=2)
    torch.testing.assert_close(found, relprop.explain(Residual(), X, 2).relevance)


def test_a_tuple_in_gives_a_tuple_out(residual):
    (found,) = residual.attribute((X,), target=2)
    assert torch.equal(found, residual.attribute(X, target=torch.tensor(2)))
    assert torch.equal(found, residual.attribute(X, target=torch.tensor([2])))
    assert torch.equal(found, residual.attribute(X, target=(2,)))
    assert torch.equal(found, residual.attribute(X, target=[(2,)] * 3))


class Pair(nn.Module):
    """Reads an image, a map of depth, and a number that says how much the depth counts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.image, self.depth = nn.Conv2d(3, 6, 3), nn.Conv2d(1, 6, 3)
        self.head = nn.Linear(12, 5)
        self.eval()

    def forward(self, image, depth, weight=1.0):
        features = [self.image(image).relu().mean((2, 3)), weight * self.depth(depth).relu().mean((2, 3))]
        return self.head(torch.cat(features, 1))


def test_several_inputs_are_a_tuple_in_and_a_tuple_out():
    model, depth = Pair(), torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(8))
    found, delta = LRP(model).attribute(
        (X, depth), target=TARGET, additional_forward_args=0.5, return_convergence_delta=True
    )
    assert [part.shape for part in found] == [X.shape, depth.shape]
    expected = model(X, depth, 0.5).detach()[range(3), TARGET]
    torch.testing.assert_close(sum(part.flatten(1).sum(1) for part in found), expected, rtol=1e-5, atol=1e-6)
    assert delta.abs().max() < 1e-6
    assert all(part.abs().sum() > 0 for part in found)
    smooth = NoiseTunnel(LRP(model)).attribute((X, depth), nt_samples=2, stdevs=(0.0, 0.0), target=TARGET)
    torch.testing.assert_close(smooth, LRP(model).attribute((X, depth), target=TARGET))


def test_a_detection_is_a_target():
    pytest.importorskip("torchvision")

    class Found(nn.Module):
        def forward(self, x):
            rows = plain()(x).sigmoid()
            return [{"boxes": row.expand(4, 5).T, "scores": row} for row in rows]

    model = Found().eval()
    found = LRP(model).attribute(X, target=relprop.targets.Detection([4, 0, 2]))
    expected = plain()(X).sigmoid().detach()[range(3), [4, 0, 2]]
    torch.testing.assert_close(found.flatten(1).sum(1), expected)


def test_places_in_an_output_of_more_dimensions():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 4, 1)).eval()
    found, delta = LRP(model).attribute(X, target=(1, 2, 5), return_convergence_delta=True)
    assert delta.abs().max() < 1e-6
    assert found[:, :, :1].abs().sum() == found[:, :, :, :4].abs().sum() == 0  # out of reach of row 2, column 5
    torch.testing.assert_close(found.flatten(1).sum(1), model(X)[:, 1, 2, 5].detach())


def test_one_value_an_image_needs_no_target():
    model = nn.Sequential(plain(), nn.Linear(5, 1)).eval()
    found = LRP(model).attribute(X)
    torch.testing.assert_close(found.flatten(1).sum(1), model(X)[:, 0].detach(), rtol=1e-5, atol=1e-6)


def test_further_arguments_reach_the_model_and_are_read_anew(residual):
    model = Residual()
    scale = torch.rand(3, 6, generator=torch.Generator().manual_seed(3)) + 0.5
    for more, expected in (
        ((scale, 2), model(X, scale, 2)),
        ((scale.flip(0), 2), model(X, scale.flip(0), 2)),  # other values of the same shapes: no new capture
        ((scale, 3), model(X, scale, 3)),
    ):
        found = residual.attribute(X, target=TARGET, additional_forward_args=more)
        torch.testing.assert_close(found.flatten(1).sum(1), expected.detach()[range(3), TARGET], rtol=1e-4, atol=1e-5)


def test_noise_tunnel(residual):
    torch.manual_seed(4)
    found, delta = NoiseTunnel(residual).attribute(
        X, nt_type="smoothgrad", nt_samples=4, stdevs=0.1, target=TARGET, return_convergence_delta=True
    )
    torch.manual_seed(4)
    noisy = X.repeat_interleave(4, 0) + torch.normal(0, torch.full((12, 3, 8, 8), 0.1))
    expected = relprop.explain(Residual(), noisy, [t for t in TARGET for _ in range(4)], start="logit")
    torch.testing.assert_close(found, expected.relevance.view(3, 4, 3, 8, 8).mean(1), rtol=1e-4, atol=1e-7)
    assert delta.shape == (12,)
    assert delta.abs().max() < 1e-6


def test_noise_tunnel_repeats_further_arguments(residual):
    scale = torch.ones(3, 6)
    torch.manual_seed(4)
    found = NoiseTunnel(residual).attribute(X, nt_samples=2, stdevs=0.1, target=1, additional_forward_args=(scale, 1))
    torch.manual_seed(4)
    torch.testing.assert_close(found, NoiseTunnel(residual).attribute(X, nt_samples=2, stdevs=0.1, target=1))


def test_infidelity_and_sensitivity(residual):
    model = Residual()

    def perturb(inputs):
        noise = 0.01 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(5))
        return noise, inputs - noise

    found = residual.attribute(X, target=TARGET)
    score = infidelity(model, perturb, X, found, target=TARGET, n_perturb_samples=4, normalize=True)
    assert score.shape == (3,)
    assert score.isfinite().all()
    torch.manual_seed(6)
    change = sensitivity_max(residual.attribute, X, target=TARGET, n_perturb_samples=3)
    assert change.shape == (3,)
    assert (change > 0).all()
    assert (change < 1).all()


def test_captums_pictures(residual):
    found = residual.attribute(X, target=TARGET)[0].permute(1, 2, 0).numpy()
    figure, ax = visualization.visualize_image_attr(found, sign="all", use_pyplot=False)
    shown = ax.images[0].get_array()
    assert shown.shape == (8, 8)
    assert float(abs(shown).max()) == pytest.approx(1, abs=0.3)
    figure.clear()


def test_messages(residual):
    with pytest.raises(TargetError, match="target is None, and the model returns 5 values an image: name a class"):
        residual.attribute(X)
    with pytest.raises(TargetError, match=r"\(7,\) is no position in an output of shape \(5,\)"):
        residual.attribute(X, target=(7,))
    with pytest.raises(TargetError, match="class 9 does not exist"):
        residual.attribute(X, target=9)
    with pytest.raises(TargetError, match=r"one class an image; relprop.explain takes \(N, K\)"):
        residual.attribute(X, target=[[0, 1]] * 3)
    with pytest.raises(NotImplementedError, match="attribute_future"):
        residual.attribute_future()
