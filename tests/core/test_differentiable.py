"""Relevance with a graph: what it must not change, training by it, and derivatives that are never NaN."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import relprop
from relprop.core.composites.presets import COMPOSITES
from relprop.errors import UsageError
from tiny import Tiny, images

X = images(2).double()


def test_kept_layers_and_readings_have_a_graph():
    model = Tiny().double()
    result = relprop.LRP(model, keep=["relu"], differentiable=True)(X, 1)
    assert result.at("relu").requires_grad
    result.combine({"relu": 0.5, "input": 0.5}).square().sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_numbers_are_those_of_an_explanation_without_a_graph(dtype):
    model, x = Tiny().to(dtype), X.to(dtype)
    plain, traced = relprop.LRP(model)(x, 1), relprop.LRP(model, differentiable=True)(x, 1)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    for name in ("relevance", "score", "logits"):
        torch.testing.assert_close(getattr(traced, name), getattr(plain, name), rtol=tolerance, atol=tolerance)
        assert getattr(traced, name).requires_grad
        assert not getattr(plain, name).requires_grad
    assert traced.ledger.gap <= (1e-6 if dtype == torch.float32 else 1e-12)
    assert not traced.ledger.start.requires_grad
    assert not any(torch.as_tensor(e.sent).requires_grad for e in traced.ledger.entries)


def test_parts_of_a_batch_have_the_gradient_of_the_whole():
    model = Tiny().double()
    whole, parts = (
        torch.autograd.grad(relprop.LRP(model, chunk=chunk, differentiable=True)(X, 1).relevance.square().sum(), p)[0]
        for p in (model.conv2.weight,)
        for chunk in (None, 1)
    )
    torch.testing.assert_close(whole, parts)


def test_nothing_of_the_model_is_left_changed():
    model = Tiny()
    before = copy.deepcopy(model.state_dict())
    lrp = relprop.LRP(model, differentiable=True)
    for _ in range(3):
        lrp(X.float(), 1).relevance.square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is not None for p in model.parameters())
    assert not lrp._prepared.store.entries  # nothing that hangs on a graph is kept


def test_without_gradients_it_is_as_any_other():
    model = Tiny()
    lrp = relprop.LRP(model, differentiable=True)
    with torch.no_grad():
        result = lrp(X.float(), 1)
    assert not result.relevance.requires_grad
    assert torch.equal(result.relevance, relprop.explain(model, X.float(), 1).relevance)
    assert lrp._prepared.store.entries


def test_a_traced_model_trains_too():
    model = Tiny().double()
    weight = model.fc.weight
    expected = torch.autograd.grad(relprop.LRP(model, differentiable=True)(X, 1).relevance.square().sum(), weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, X)
    lrp = relprop.LRP(traced, differentiable=True)
    for _ in range(3):  # TorchScript rewrites what it runs after its first runs
        relevance = lrp(X, 1).relevance
    weight = dict(traced.named_parameters())["fc.weight"]
    torch.testing.assert_close(torch.autograd.grad(relevance.square().sum(), weight), expected)


def test_a_saved_or_drawn_result_needs_no_graph(tmp_path):
    result = relprop.LRP(Tiny(), differentiable=True)(X.float(), 1)
    saved = relprop.Relevance.load(result.save(tmp_path / "result"))
    assert torch.equal(saved.relevance, result.relevance.detach())
    assert result.numpy().shape == (2, 8, 8)
    assert "class 1" in repr(result)


@pytest.mark.parametrize("option", ["compile", "bf16"])
def test_what_cannot_be_differentiated_is_refused(option):
    with pytest.raises(UsageError, match=f"{option}=True does without: leave it out"):
        relprop.LRP(Tiny(), differentiable=True, **{option: True})


def test_a_penalty_on_relevance_moves_it_where_it_should_be():
    """Right for the right reasons: of two marks that say the class, the left one is a confounder."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2)).eval()
    y = torch.arange(64) % 2
    x = torch.rand(64, 1, 8, 8) * 0.3
    x[:, :, 2:6, 1:3] += y[:, None, None, None].float()  # the confounder
    x[:, :, 2:6, 5:7] += y[:, None, None, None].float()  # what should be looked at

    def left(model):
        heat = relprop.LRP(model)(x, y).heatmap.abs()
        return float((heat[:, :, :4].sum((1, 2)) / heat.sum((1, 2))).mean())

    def trained(penalty):
        copied = copy.deepcopy(model)
        lrp = relprop.LRP(copied, differentiable=True)
        for _ in range(20):
            result = lrp(x, y)
            loss = nn.functional.cross_entropy(result.logits, y)
            loss = loss + penalty * result.heatmap[:, :, :4].abs().sum((1, 2)).mean()
            with torch.no_grad():  # by the signs of derivatives alone
                for p, slope in zip(
                    copied.parameters(), torch.autograd.grad(loss, [*copied.parameters()]), strict=True
                ):
                    p.sub_(1e-2 * slope.sign())
        accuracy = float((copied(x).argmax(1) == y).float().mean())
        return left(copied), accuracy

    (before, right), (after, still_right) = trained(0.0), trained(3.0)
    assert right == still_right == 1
    assert before > 0.4
    assert after < 0.1


@pytest.mark.parametrize(
    "composite",
    [*sorted({*COMPOSITES} - {"epsilon-gamma-box"}), "two-sided:late=gamma:depth=1", "paper:classifier=contrast"],
)
def test_where_shares_are_zero_of_zero_no_derivative_is_nan(composite):
    model = Tiny().double()
    with torch.no_grad():
        model.bn2.weight.zero_()  # a branch that begins at zero, as many networks are initialised
        model.bn2.bias.zero_()
        model.conv1.weight[:2].zero_()  # units that nothing excites, and joins of nothing with nothing
        model.bn1.bias[:2].zero_()
        model.fc.weight[1].zero_()
    result = relprop.LRP(model, COMPOSITES.build(composite), differentiable=True)(X, 1)
    result.relevance.square().sum().backward()
    assert result.relevance.isfinite().all()
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name
