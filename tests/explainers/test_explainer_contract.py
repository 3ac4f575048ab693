"""What every explainer promises, for every member of the registry."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from explainer_networks import FailsAtTheSecondCall, FailsWhenDifferentiated, Plain, Residual, made, record

from relprop.errors import CaptureError, ModelError, RelpropError, TargetError, UsageError
from relprop.explainers import EXPLAINERS
from relprop.explainers.base import replica

GRADIENTS = ("integrated-gradients", "guided-backprop", "input-x-gradient")
SPECS = [
    *(name for name in EXPLAINERS.names() if name != "rise"),  # with fewer masks below
    "grad-cam:relu=no:quantize=8",
    "score-cam:layer=layer4:relu=no",
    "score-cam:weights=probability:batch=3",
    "rise:masks=20:grid=3",
    "integrated-gradients:steps=3:channels=red",
    "lrp:released:split=symmetric:identity=no:start=logit",
]
SURVIVED = {  # (these use no gradient; capture runs on stand-ins; the libraries take NaN for a number)
    ("score-cam", FailsWhenDifferentiated),
    ("rise", FailsWhenDifferentiated),
    ("lrp", FailsWhenDifferentiated),
    ("lrp", FailsAtTheSecondCall),
    ("lrp-cuts", FailsWhenDifferentiated),
    ("lrp-cuts", FailsAtTheSecondCall),
    *((name, "input") for name in ("grad-cam", "layer-cam", "score-cam", "rise", *GRADIENTS)),
}
CONTROLS = ("constant", "random", "gaussian", "sobel")


def pictures(count=3, side=12):
    torch.manual_seed(5)
    return torch.randn(count, 3, side, side)


@pytest.mark.parametrize("spec", SPECS)
def test_heatmaps_are_float32_finite_and_one_for_each_picture(spec):
    x = pictures()
    before = x.clone()
    heat = EXPLAINERS.build(spec)(made(Plain), x, torch.tensor([0, 1, 3]))
    assert heat.shape == (3, 12, 12)
    assert heat.dtype == torch.float32
    assert bool(heat.isfinite().all())
    assert not heat.requires_grad
    assert torch.equal(x, before)
    assert not x.requires_grad


@pytest.mark.parametrize("spec", SPECS)
def test_the_model_is_untouched(spec):
    model = made(Plain)
    before = record(model)
    explainer, x = EXPLAINERS.build(spec), pictures()
    for _ in range(2):
        explainer(model, x, torch.tensor([0, 1, 3]))
        assert record(model) == before


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("failure", [FailsWhenDifferentiated, FailsAtTheSecondCall, "target", "input"])
def test_the_model_is_untouched_when_something_raises(spec, failure):
    model = made(Plain if isinstance(failure, str) else failure)
    before = record(model)
    x = pictures() * float("nan") if failure == "input" else pictures()
    target = torch.tensor([0, 1, 4 if failure == "target" else 3])
    try:
        EXPLAINERS.build(spec)(model, x, target)
    except (RelpropError, RuntimeError):
        pass
    else:
        assert spec in CONTROLS or (spec.split(":")[0], failure) in SURVIVED
    assert record(model) == before


@pytest.mark.parametrize("spec", [name for name in SPECS if name not in CONTROLS])
def test_a_class_that_does_not_exist_and_a_model_in_training_are_errors(spec):
    with pytest.raises(TargetError, match="class 4 does not exist"):
        EXPLAINERS.build(spec)(made(Plain), pictures(1), torch.tensor([4]))
    model = made(Plain)
    model.drop = torch.nn.Dropout()  # a part that computes something else in training
    with pytest.raises(CaptureError, match=r"in training mode \(at drop\); call model.eval\(\) first"):
        EXPLAINERS.build(spec)(model.train(), pictures(1), torch.tensor([0]))


@pytest.mark.parametrize("spec", SPECS)
def test_a_picture_is_explained_alike_in_any_batch(spec):
    model, x, target = made(Plain), pictures(4), torch.tensor([0, 1, 2, 3])
    explainer = EXPLAINERS.build(spec)
    whole = explainer(model, x, target)
    order = torch.tensor([2, 0])
    assert torch.allclose(explainer(model, x[order], target[order]), whole[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_grad_modes_around_the_call_do_not_matter_and_no_warning_escapes(spec):
    model, x, target = made(Plain), pictures(2), torch.tensor([0, 1])
    expected = EXPLAINERS.build(spec)(model, x, target)
    state = torch.random.get_rng_state()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = EXPLAINERS.build(spec)(model, x.requires_grad_(), target)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("spec", [name for name in SPECS if not name.startswith(("captum-lrp", "score-cam:layer"))])
def test_residual_joins_and_functional_relus_are_explained(spec):
    model = made(Residual)
    before = record(model)
    heat = EXPLAINERS.build(spec)(model, pictures(), torch.tensor([0, 1, 3]))
    assert bool(heat.isfinite().all())
    assert record(model) == before


@pytest.mark.parametrize("spec", SPECS)
def test_explainers_are_values(spec):
    explainer = EXPLAINERS.build(spec)
    assert explainer == EXPLAINERS.build(spec)
    explainer(made(Plain), pictures(1), torch.tensor([0]))
    assert pickle.loads(pickle.dumps(explainer)) == explainer
    with pytest.raises(AttributeError):
        explainer.something = 1
    with pytest.raises(UsageError):
        EXPLAINERS.build(f"{spec.split(':')[0]}:nonsense=1")


@pytest.mark.parametrize("share", [True, False])
def test_libraries_work_on_a_replica_that_computes_the_same_and_owns_its_modules(share):
    model, x = made(Residual), pictures()
    before = record(model)
    twin = replica(model, share=share)
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert mine is not theirs, name
        assert (mine.data_ptr() == theirs.data_ptr()) == share
        assert not theirs.requires_grad
    twin.conv.weight.data = torch.zeros_like(twin.conv.weight)  # captum's way of changing weights
    twin.conv.register_forward_hook(lambda *_: None)
    twin.note = "theirs"
    del twin.bn
    assert record(model) == before


class Uncopied(Plain):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle 'socket' object")


def test_a_model_that_cannot_be_copied_says_why_that_matters():
    with pytest.raises(
        ModelError, match=r"Uncopied cannot be copied, and .* works on a copy .*: cannot pickle 'socket'"
    ):
        EXPLAINERS.build("input-x-gradient")(made(Uncopied), pictures(), torch.tensor([0, 1, 3]))


def test_wrapped_and_exported_models_are_explained_like_the_bare_one():
    model, x, target = made(Residual), pictures(), torch.tensor([0, 1, 3])
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for name in ("guided-backprop", "integrated-gradients", "input-x-gradient", "lrp"):
        expected = EXPLAINERS.build(name)(model, x, target)
        for wrapped in (torch.nn.DataParallel(model), program):
            assert torch.allclose(EXPLAINERS.build(name)(wrapped, x, target), expected, rtol=1e-4, atol=1e-6), name
