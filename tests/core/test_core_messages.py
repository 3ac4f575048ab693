"""The sentences of errors: where, what was found, what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn, tensor

import relprop
from relprop.core.rules import pass_through
from relprop.errors import CaptureError, InputError, TargetError, UnsupportedOpError, UsageError
from tiny import Ends, Tiny, images


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


X = images()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.numpy(), r"x must be a torch.Tensor, not ndarray; torch.from_numpy\(x\) makes one"),
        (X[:0], r"at least one image, not of shape \(0, 3, 8, 8\)"),
        (torch.rand(3), r"must be a batch \(N, C, H, W\) with at least one image, not of shape \(3,\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floating-point numbers, not torch.uint8; use x.float\(\)"),
        (X * tensor(float("nan")), "x holds NaN or infinite numbers"),
        (X / 0, "x holds NaN or infinite numbers"),
        (X.double(), r"x is float64 and the model float32; use x.float\(\), or model.double\(\)"),
        (X.to("meta"), "x is on the device meta, where tensors hold no numbers"),
        (torch.rand(1, 4, 8, 8), r"cannot take x of shape \(1, 4, 8, 8\): .*to have 3 channels, but got 4"),
        (torch.rand(3, 8, 8), r"cannot take x of shape \(3, 8, 8\)"),
    ],
)
def test_inputs(tiny, x, message):
    with pytest.raises(InputError, match=message):
        relprop.explain(tiny, x)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "class 5 does not exist: the model has 5 classes, 0 to 4"),
        (-1, "class -1 does not exist"),
        ([0, 7], "class 7 does not exist"),
        ([0, 1, 2], r"shape \(3,\) for 2 image\(s\); give one class, \(2,\), or \(2, K\)"),
        ([[[0]], [[1]]], r"shape \(2, 1, 1\) for 2 image"),
        (1.0, "whole class numbers, not torch.float32"),
        (True, "whole class numbers, not torch.bool"),
        ("cat", "must be the index of a class, a list of them or an integer tensor, not 'cat'"),
        ([[0], [1, 2]], "must be the index of a class, a list of them"),
        (torch.zeros(2, 0, dtype=torch.long), "target names no class at all"),
    ],
)
def test_targets(tiny, target, message):
    with pytest.raises(TargetError, match=message):
        relprop.explain(tiny, X, target)


def test_start(tiny):
    with pytest.raises(UsageError, match="start must be 'probability' or 'logit', not 'score'"):
        relprop.explain(tiny, X, start="score")


# ---- models


def test_training_mode():
    with pytest.raises(CaptureError, match=r"in training mode \(at bn1 and 2 more\); call model.eval\(\) first"):
        relprop.explain(Tiny().train(), X)


def test_training_mode_of_one_part_also_later():
    model = Tiny()
    lrp = relprop.LRP(model)
    lrp(X)
    model.bn1.train()
    with pytest.raises(CaptureError, match=r"in training mode \(at bn1\); call model.eval\(\) first"):
        lrp(X)


def test_what_is_no_model():
    with pytest.raises(UsageError, match=r"model must be a torch.nn.Module or an ExportedProgram, not str"):
        relprop.LRP("resnet50")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda y: {"a": y, "b": y}, r"the model returns dict; .* or as the entry 'logits' or 'out' \(tensors a, b"),
        (lambda y: None, r"the model returns NoneType; .*\(no tensor is in it\)"),
        (lambda y: y[:, 0], r"the model returns \(2,\); relprop explains an \(N, classes\) tensor"),
        (lambda y: y[:, :, None, None], r"the model returns \(2, 5, 1, 1\); .*wrap the model"),
        (lambda y: torch.ones(2, 3), "output does not depend on its input"),
    ],
    ids=["dict", "nothing", "1-d", "4-d", "constant"],
)
def test_outputs(end, message, capfd):
    with pytest.raises(CaptureError, match=message):
        relprop.explain(Ends(end).eval(), X)
    assert capfd.readouterr() == ("", "")  # torch prints programs where an export fails


def test_scores_that_are_no_numbers():
    with pytest.raises(InputError, match="the model's scores for this input are NaN or infinite"):
        relprop.explain(Ends(lambda y: y / 0).eval(), X)


def test_two_inputs():
    class Two(Tiny):
        def forward(self, x, y):
            return super().forward(x) + y

    with pytest.raises(InputError, match=r"cannot take x of shape \(2, 3, 8, 8\): .*missing 1 required positional"):
        relprop.explain(Two(), X)


# ---- operations without a rule


class Odd(Tiny):
    """Several operations without a rule, one of them twice."""

    def forward(self, x):
        h = torch.logcumsumexp(self.conv1(x), 2)
        h = torch.logcumsumexp(h, 3)
        h = torch.lgamma(torch.sigmoid(h) + 1)
        return self.fc(torch.hypot(h, torch.sigmoid(h)).mean((2, 3)))


def test_every_step_without_a_rule_is_named_with_its_place():
    with pytest.raises(UnsupportedOpError) as caught:
        relprop.explain(Odd(), X)
    message = str(caught.value)
    for words in (
        "no rule for 'logcumsumexp' at logcumsumexp (test_core_messages.py:",
        "h = torch.logcumsumexp(self.conv1(x), 2)), logcumsumexp@1 (",
        "no rule for 'lgamma' at lgamma (test_core_messages.py:",
        "no rule for 'hypot' of two values that both depend on the image at hypot",
        "Rules exist for ",
        "@rule('logcumsumexp')",
    ):
        assert words in message


def test_one_value_can_be_mapped_as_the_message_says():
    class Wavy(Tiny):
        def forward(self, x):
            return torch.erfinv(torch.tanh(super().forward(x + 0)))

    with pytest.raises(UnsupportedOpError, match=r"paper\(\).override\(rules=\{'erfinv': pass_through\}\)"):
        relprop.explain(Wavy(), X)
    result = relprop.explain(Wavy(), X, composite=relprop.paper().override(rules={"erfinv": pass_through}))
    assert result.ledger.gap < 1e-6


def test_a_rule_for_two_values():
    class Gated(Tiny):
        def forward(self, x):
            h = self.conv1(x)
            return self.fc((h * torch.sigmoid(self.conv2(h))).mean((2, 3)))

    @relprop.rule(name="signal", reads=())
    def signal(step, relevance):
        return relevance, None

    result = relprop.LRP(Gated(), relprop.paper().override(rules={"mul": signal}), keep=["conv1", "conv2"])(X)
    assert result.ledger.gap < 1e-6
    assert result.at("conv2").abs().sum() == 0
    assert result.at("conv1").sum() == pytest.approx(result.score.sum().item(), rel=1e-5)

    @relprop.rule(name="one of two", reads=())
    def one(step, relevance):
        return relevance

    with pytest.raises(UsageError, match=r"'one of two' returned relevance for 1 value\(s\) at mul, which has 2"):
        relprop.explain(Gated(), X, composite=relprop.paper().override(rules={"mul": one}))


def test_a_weight_that_depends_on_the_image():
    class Dynamic(Tiny):
        def forward(self, x):
            h = self.conv1(x)
            weight = self.fc(h.mean((0, 2, 3)))[:4].view(4, 1, 1, 1)
            return self.fc(torch.conv2d(h, weight, groups=4).mean((2, 3)))

    with pytest.raises(UnsupportedOpError, match=r"no rule for .conv. of two values"):
        relprop.explain(Dynamic(), X)


@pytest.mark.parametrize(
    "mix",
    [
        lambda h: h - h.mean(0, keepdim=True),
        lambda h: h - h.mean(),
    ],
    ids=["mean", "mean of all"],
)
def test_steps_that_mix_the_images_of_a_batch(mix):
    class Mixed(Tiny):
        def forward(self, x):
            return self.fc(mix(self.conv1(x)).mean((2, 3)))

    with pytest.raises(UnsupportedOpError, match=r"the images of a batch do not stay apart at .*test_core_messages"):
        relprop.explain(Mixed(), X)


def test_the_release_refuses_a_pool_that_it_cannot_replace():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(64, 2)).eval()
    with pytest.raises(UnsupportedOpError, match=r"takes 1 for a 2x2 average of stride 2, which gives \(3, 3\)"):
        relprop.explain(model, X, composite=relprop.released())


# ---- layers, composites and rules


def test_layers_that_are_not_there(tiny):
    with pytest.raises(UsageError, match=r"no layer 'conv' lies on the way from the image; near it: conv"):
        relprop.LRP(tiny, keep=["conv"])(X)
    result = relprop.LRP(tiny, keep=["conv1", "bn1"])(X)
    with pytest.raises(UsageError, match=r"'conv2' was not kept; kept were: bn1, conv1. Ask .*keep=\['conv2'\]"):
        result.at("conv2")
    with pytest.raises(UsageError, match="side must be 'input' or 'output', not 'before'"):
        result.at("conv1", "before")
    with pytest.raises(UsageError, match="'conv1' was not kept; none were kept"):
        relprop.explain(tiny, X).at("conv1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: relprop.paper(split="fair"), "no split is named 'fair'.*known: symmetric, ratio, signed"),
        (lambda: relprop.paper(first="zeros"), "first must be one of ones, image, not 'zeros'"),
        (lambda: relprop.paper(max_pool="softmax"), "max_pool must be one of winner, average"),
        (lambda: relprop.paper(batch_norm="merge"), "batch_norm must be 'pass' or 'fold', not 'merge'"),
    ],
)
def test_composites(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_pattern_that_matches_nothing(tiny):
    with pytest.raises(UsageError, match=r"no layer matches the pattern 'block\*'"):
        relprop.explain(tiny, X, composite=relprop.paper().override(names={"block*": pass_through}))


def test_a_rule_that_returns_another_shape(tiny):
    @relprop.rule(name="narrow")
    def narrow(step, relevance):
        return relevance[:, :1]

    with pytest.raises(UsageError, match=r"'narrow' at bn1 returned .* \(2, 1, 8, 8\); it must have .* \(2, 4, 8, 8\)"):
        relprop.explain(tiny, X, composite=relprop.paper().override(names={"bn1": narrow}))


def test_inputs_and_weights_that_are_no_real_numbers_are_refused():
    net, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval(), torch.rand(2, 1, 2, 2)
    for chunk in (None, 1):
        with pytest.raises(InputError, match=r"x is sparse \(torch\.sparse_coo\), for which there are no rules; use"):
            relprop.LRP(net, chunk=chunk)(x.to_sparse())
    with pytest.raises(InputError, match="x is on the device meta, where tensors hold no numbers"):
        relprop.explain(net, x.to("meta"))
    with pytest.raises(InputError, match=r"x holds complex numbers \(torch\.complex64\)"):
        relprop.explain(net, x.to(torch.complex64))
    net[1].phase = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(CaptureError, match=r"weight 1\.phase holds complex numbers \(torch\.complex64\); relevance is"):
        relprop.explain(net, x)
    net[1].phase = torch.nn.Parameter(torch.eye(3).to_sparse())
    with pytest.raises(CaptureError, match=r"weight 1\.phase is sparse \(torch\.sparse_coo\)"):
        relprop.explain(net, x)
    with pytest.raises(CaptureError, match=r"weight 1\.weight is on the device meta"):
        relprop.explain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, device="meta")).eval(), x)
