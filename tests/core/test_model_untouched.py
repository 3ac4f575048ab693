"""The model that we are given is the model that we give back, also when something raises."""

from __future__ import annotations

import pytest
import torch

import relprop
from relprop.errors import RelpropError
from tiny import Ends, Tiny, images


def everything(model: torch.nn.Module) -> dict:
    """All that could be left changed on a model, by identity where identity matters."""
    state = model.state_dict(keep_vars=True)
    return {
        "tensors": {
            name: (id(t), t.data_ptr(), t._version, t.dtype, t.requires_grad, id(t.grad)) for name, t in state.items()
        },
        "gradients": {name: None if t.grad is None else t.grad.tolist() for name, t in state.items()},
        "numbers": {name: t.detach().clone().tolist() for name, t in state.items()},
        "modules": {
            name: (
                id(module),
                type(module),
                module.training,
                sorted(module.__dict__),
                {key: dict(value) for key, value in vars(module).items() if "hooks" in key},
                module.forward.__func__,
            )
            for name, module in model.named_modules()
        },
        "random numbers": torch.get_rng_state().tolist(),
        "gradients are recorded": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
    }


@pytest.fixture
def model():
    model = Tiny()
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    model.fc.register_forward_hook(lambda module, inputs, output: output)
    model.conv2.register_full_backward_hook(lambda *_: None)
    return model


def test_after_a_call(model):
    before = everything(model)
    for composite in (relprop.paper(), relprop.gamma(), relprop.paper(batch_norm="fold")):
        lrp = relprop.LRP(model, composite, keep=["conv2"])
        lrp(images())
        lrp(images(3, 10), target=[0, 1, 2], start="logit")
        assert everything(model) == before


def nothing_for_relu():
    from dataclasses import replace

    @relprop.rule(name="broken")
    def broken(step, relevance):
        raise ZeroDivisionError

    return replace(relprop.paper(), names=(("conv2", broken),))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: relprop.explain(m, images(), 5), RelpropError),
        (lambda m: relprop.explain(m, images() * float("nan")), RelpropError),
        (lambda m: relprop.explain(m, torch.zeros(1, 4, 8, 8)), RelpropError),
        (lambda m: relprop.explain(m, images().double()), RelpropError),
        (lambda m: relprop.explain(m, images(), start="score"), RelpropError),
        (lambda m: relprop.LRP(m, keep=["conv9"])(images()), RelpropError),
        (lambda m: relprop.explain(m, images(), composite=nothing_for_relu()), ZeroDivisionError),
        (lambda m: relprop.explain(m, images(), composite=relprop.epsilon_gamma_box(-0.1, 0.1)), RelpropError),
    ],
    ids=["target", "nan", "channels", "dtype", "start", "keep", "rule", "box"],
)
def test_after_an_error(model, call, error):
    before = everything(model)
    with pytest.raises(error):
        call(model)
    assert everything(model) == before


@pytest.mark.parametrize(
    "end",
    [lambda y: y.logcumsumexp(1), lambda y: {"a": y, "b": y}, lambda y: torch.from_numpy(y.detach().numpy() + 0)],
    ids=["op", "dict", "numpy"],
)
def test_after_a_model_that_cannot_be_explained(end):
    model = Ends(end).eval()
    before = everything(model)
    with pytest.raises(RelpropError):
        relprop.explain(model, images())
    assert everything(model) == before


def test_in_training_mode():
    model = Tiny().train()
    before = everything(model)
    with pytest.raises(RelpropError):
        relprop.explain(model, images())
    assert everything(model) == before


def test_the_snapshot_sees_changes(model):
    """Or else the tests above could not fail."""
    before = everything(model)
    for change in (
        lambda: model.fc.weight.data.add_(1e-3),
        lambda: model.fc.register_forward_hook(lambda *_: None),
        lambda: model.drop.train(),
        lambda: setattr(model.relu, "inplace_", True),
        lambda: model.conv2.weight.requires_grad_(False),
    ):
        change()
        after = everything(model)
        assert after != before
        before = after


def test_the_image_is_left_alone():
    x = images().requires_grad_()
    before, version = x.detach().clone(), x._version
    result = relprop.explain(Tiny(), x)
    assert torch.equal(x.detach(), before)
    assert (x._version, x.grad) == (version, None)
    assert not result.relevance.requires_grad
    assert result.relevance.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_an_explainer_does_not_carry_the_model_along():
    model = Tiny()
    lrp = relprop.LRP(model)
    lrp.train()
    lrp.double()
    assert not model.training
    assert model.fc.weight.dtype == torch.float32
    assert list(lrp.parameters()) == []
    assert lrp.state_dict() == {}


def test_a_model_is_freed_when_its_user_lets_go():
    import gc
    import weakref

    model = Tiny()
    relprop.explain(model, images())
    relprop.LRP(model)(images())
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None
