"""The attributor beside zennit's own, on networks that zennit explains as they are."""

from __future__ import annotations

import pytest
import torch
from adapter_networks import Residual, images, plain
from torch import nn

import relprop
from relprop.adapters.zennit import Attributor
from relprop.errors import TargetError, UsageError

X = images()
ONE_HOT = torch.eye(5)[[0, 3, 1]]


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("name", ["EpsilonPlusFlat", "EpsilonAlpha2Beta1Flat", "EpsilonGammaBox"])
def test_it_equals_zennit(name, bias):
    composites = pytest.importorskip("zennit.composites", reason="zennit is LGPL and no dependency of relprop")
    from zennit.attribution import Gradient

    ours, theirs = {
        "EpsilonPlusFlat": (relprop.epsilon_plus_flat(), composites.EpsilonPlusFlat()),
        "EpsilonAlpha2Beta1Flat": (relprop.epsilon_alpha2_beta1_flat(), composites.EpsilonAlpha2Beta1Flat()),
        "EpsilonGammaBox": (relprop.epsilon_gamma_box(-4.0, 4.0), composites.EpsilonGammaBox(-4.0, 4.0)),
    }[name]
    model = plain(bias)
    with Attributor(model, ours) as attributor:
        output, relevance = attributor(X, ONE_HOT)
    with Gradient(model=plain(bias), composite=theirs) as attributor:
        their_output, their_relevance = attributor(X.clone(), ONE_HOT)
    torch.testing.assert_close(output, their_output.detach(), rtol=1e-5, atol=1e-6)
    scale = their_relevance.abs().amax().item()
    assert scale > 1e-3
    torch.testing.assert_close(relevance, their_relevance.detach(), rtol=1e-3, atol=1e-4 * scale)


def test_the_start_is_a_tensor_a_function_or_the_output():
    model = Residual()
    attributor = Attributor(model)
    output, one = attributor(X, ONE_HOT)
    torch.testing.assert_close(one.flatten(1).sum(1), torch.ones(3), rtol=1e-5, atol=0)
    torch.testing.assert_close(output, model(X).detach())
    assert torch.equal(attributor(X, lambda y: ONE_HOT)[1], one)
    assert torch.equal(Attributor(model, attr_output=ONE_HOT)(X)[1], one)
    torch.testing.assert_close(attributor(X, ONE_HOT[:1])[1], attributor(X, ONE_HOT[:1].expand(3, 5))[1])
    torch.testing.assert_close(attributor(X)[1].flatten(1).sum(1), output.sum(1), rtol=1e-4, atol=1e-5)


def test_the_context_leaves_the_model_alone_also_when_something_raises():
    model = Residual()
    before = dict(vars(model))
    with pytest.raises(TargetError, match="must be a tensor in the output's shape"), Attributor(model) as attributor:
        attributor(X, torch.ones(3))
    assert dict(vars(model)) == before


def test_zennits_composites_are_translated_in_words():
    class EpsilonPlusFlat:
        pass

    with pytest.raises(UsageError, match=r"one of relprop's, not EpsilonPlusFlat: relprop.epsilon_plus_flat\(\)"):
        Attributor(Residual(), EpsilonPlusFlat())


def test_a_conditional_map_equals_zennits_with_channels_masked_by_hand():
    composites = pytest.importorskip("zennit.composites", reason="zennit is LGPL and no dependency of relprop")
    from zennit.attribution import Gradient

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 5, bias=False),
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    one_hot = torch.eye(5)[[0, 3]]
    ours = relprop.LRP(model, relprop.epsilon_plus_flat())(x, start=one_hot, through={"1": [2, 4]})
    mask = torch.zeros(6, 1, 1)
    mask[[2, 4]] = 1
    with Gradient(model=model, composite=composites.EpsilonPlusFlat()) as attributor:
        handle = model[1].register_forward_hook(
            lambda _m, _i, out: out.register_hook(lambda grad: grad * mask) and None
        )
        theirs = attributor(x.clone(), one_hot)[1].detach()
        handle.remove()
    scale = theirs.abs().max().item()
    assert scale > 1e-4
    torch.testing.assert_close(ours.relevance, theirs, rtol=1e-3, atol=1e-4 * scale)
