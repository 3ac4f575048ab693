"""Weights are those of the moment of the call, however they were changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import relprop
from tiny import Tiny, images


class Normalised(Tiny):
    """A classifier whose weight is computed at each call, and a convolution under weight norm."""

    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv2)
        self.eval()

    def forward(self, x):
        return F.linear(self.features(x), F.normalize(self.fc.weight), self.fc.bias)


def fresh(like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(int(1e6 * float(like.sum().abs())) % 2**31))


def interior(model):
    weight = model.conv1.weight.data
    weight[1, 2, 1, 0] = weight[1, 2, 1, 0] + 1


CHANGES = {
    "in place": lambda m: m.conv1.weight.copy_(fresh(m.conv1.weight)),
    "through .data": lambda m: m.conv1.weight.data.copy_(fresh(m.conv1.weight)),
    "one number through .data": interior,
    "filters swapped through .data": lambda m: m.conv1.weight.data.copy_(m.conv1.weight.data[[0, 2, 1, 3]]),
    ".data replaced": lambda m: setattr(m.fc.weight, "data", fresh(m.fc.weight)),
    "parameter replaced": lambda m: setattr(m.fc, "weight", nn.Parameter(fresh(m.fc.weight))),
    "load_state_dict": lambda m: m.load_state_dict({k: v * 1.25 for k, v in m.state_dict().items()}),
    "an optimiser": lambda m: step(m),
    "batch-norm statistics": lambda m: m.bn1.running_var.mul_(1.5),
    "batch-norm shift through .data": lambda m: m.bn2.bias.data.add_(0.5),
}


def step(model):
    with torch.enable_grad():
        F.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
    with torch.no_grad():
        for p in model.parameters():  # as torch.optim.SGD, which imports torch's compiler first
            p.add_(p.grad, alpha=-0.5)
    model.zero_grad()


@pytest.fixture(scope="module")
def twin():
    """Explained by a new `LRP` each time, which knows nothing of former weights."""
    return Tiny()


FOLD = relprop.paper(batch_norm="fold")
FOLDED = ("one number through .data", "parameter replaced", *(name for name in CHANGES if "batch-norm" in name))


# where batch norms are folded into weights, the quick run changes weights in two ways, and each part of a batch norm
@pytest.mark.parametrize(
    ("change", "composite"),
    [
        *(pytest.param(change, relprop.paper(), id=change) for change in CHANGES),
        *(
            pytest.param(change, FOLD, id=f"{change}, folded", marks=() if change in FOLDED else pytest.mark.slow)
            for change in CHANGES
        ),
    ],
)
def test_changed_weights_are_used(change, composite, twin):
    model = Tiny()
    lrp = relprop.LRP(model, composite)
    last = lrp(images()).relevance
    for _ in range(2):  # more than once: freed memory may be given to new weights
        with torch.no_grad():
            CHANGES[change](model)
        now = lrp(images(), target=1)
        twin.load_state_dict(model.state_dict())
        expected = relprop.explain(twin, images(), 1, composite=composite)
        assert torch.equal(now.relevance, expected.relevance)
        assert torch.equal(now.logits, expected.logits)
        assert not torch.equal(now.relevance, last)
        last = now.relevance


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_weights_that_are_computed_or_widened_at_each_call(kind):
    model = Normalised().to(getattr(torch, kind))
    lrp = relprop.LRP(model)
    lrp(images())
    anew = Normalised().to(getattr(torch, kind))
    for k in range(4):
        with torch.no_grad():
            model.fc.weight.data.copy_(torch.randn(5, 4, generator=torch.Generator().manual_seed(k)))
            model.conv2.parametrizations.weight.original1.data.mul_(-1.5)
        anew.load_state_dict(model.state_dict())
        assert torch.equal(lrp(images()).relevance, relprop.explain(anew, images()).relevance)


def test_another_type_of_weights():
    model = Tiny()
    lrp = relprop.LRP(model)
    single = lrp(images())
    double = lrp_after(model.double(), lrp, images().double())
    assert double.relevance.dtype == torch.float64
    torch.testing.assert_close(double.relevance, single.relevance.double(), rtol=1e-4, atol=1e-8)
    half = lrp_after(model.half(), lrp, images())
    assert half.relevance.dtype == torch.float32
    torch.testing.assert_close(half.relevance, single.relevance, rtol=0.05, atol=1e-3)
    back = lrp_after(model.float(), lrp, images())
    assert back.relevance.dtype == torch.float32


def lrp_after(_, lrp, x):
    return lrp(x)


def test_modules_that_are_replaced_are_captured_anew():
    model = Tiny()
    lrp = relprop.LRP(model)
    lrp(images())
    model.relu = nn.LeakyReLU(0.3).eval()
    model.fc = nn.Linear(4, 9).eval()
    anew = Tiny()
    anew.relu, anew.fc = model.relu, model.fc
    assert torch.equal(lrp(images()).relevance, relprop.explain(anew, images()).relevance)


def test_sizes_and_batches_may_change_between_calls():
    model = Tiny()
    lrp = relprop.LRP(model)
    for count, size in ((2, 8), (1, 8), (5, 12), (3, 8), (1, 12)):
        x = images(count, size)
        found = lrp(x)
        torch.testing.assert_close(found.logits, model(x).detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.relevance, relprop.explain(model, x).relevance, rtol=1e-4, atol=1e-8)
        assert found.ledger.gap < 1e-6


def test_a_graph_that_holds_its_batch_size_serves_that_alone():
    class Counts(Tiny):
        def forward(self, x):
            return self.fc(self.features(x).reshape(len(x), 4))

    lrp = relprop.LRP(Counts())
    x = images(4)
    whole = lrp(x)
    for count in (1, 2, 3, 4):
        torch.testing.assert_close(lrp(x[:count]).relevance, whole.relevance[:count], rtol=1e-4, atol=1e-8)
