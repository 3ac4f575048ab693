"""Relevance with a graph: its derivatives against finite differences, and what it must not change."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from core_nets import BLOCKS, HEADS, Network
from core_nets import images as signals
from torch import nn

import relprop
from relprop import targets
from relprop.core.composites.presets import COMPOSITES, attnlrp, epsilon_gamma_box
from relprop.errors import UsageError
from tiny import Tiny, images

X = images(2).double()
TOLERANCE = 1e-5


def slopes(model, x, parameters, **options):
    """Along a random direction of all parameters together: (by finite differences, by autograd).

    The loss is a random weighted sum of relevance, score and logits. Relevance is smooth in pieces, as a ReLU is: one
    of four directions has to agree, since a step may lead over an edge.
    """
    start, composite = options.pop("start", "logit"), options.pop("composite", None)
    generator = torch.Generator().manual_seed(0)

    def weights_like(value):
        return torch.randn(value.shape, generator=generator, dtype=torch.float64)

    lrp = relprop.LRP(model, composite, differentiable=True)
    result = lrp(x, start=start, **options)
    weights = [weights_like(value) for value in (result.relevance, result.score, result.logits)]

    def loss_of(result):
        parts = (result.relevance, result.score, result.logits)
        return sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))

    gradients = torch.autograd.grad(loss_of(result), parameters, allow_unused=True)
    found = []
    for _ in range(4):
        directions = [weights_like(p) * p.detach().abs().mean() for p in parameters]
        analytic = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(sign * 1e-6 * d)
                values.append(float(loss_of(lrp(x, start=start, **options))))
        numeric = (values[0] - values[1]) / 2e-6
        found.append((abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-3), numeric, analytic))
        if found[-1][0] < TOLERANCE:
            break
    assert all(abs(numeric) > 1e-9 for _, numeric, _ in found), "the loss must depend on the weights"
    return min(found)


def require_slopes(model, x, **options):
    """Derivatives with respect to all weights, and to the input, agree with finite differences."""
    model, x = model.double(), x.clone().requires_grad_()
    for parameters in ([*model.parameters()], [x]):
        off, numeric, analytic = slopes(model, x, parameters, **options)
        assert off < TOLERANCE, f"finite differences give {numeric}, autograd {analytic}"


@pytest.mark.parametrize("composite", [name for name in COMPOSITES if name not in ("released", "epsilon-gamma-box")])
def test_composites_against_finite_differences(composite):
    require_slopes(Tiny(), X, composite=COMPOSITES.build(composite), target=[1, 3])


def test_a_box_against_finite_differences():
    require_slopes(Tiny(), X, composite=epsilon_gamma_box(-6.0, 6.0), target=[1, 3])


@pytest.mark.parametrize("split", ["ratio", "symmetric", "signed"])
@pytest.mark.parametrize("batch_norm", ["pass", "fold"])
def test_splits_against_finite_differences(split, batch_norm):
    require_slopes(Tiny(), X, composite=relprop.paper(split=split, batch_norm=batch_norm, first="image"), target=2)


@pytest.mark.parametrize("block", sorted({*BLOCKS} - {"NoGrad"}))  # whose derivative the model keeps back
def test_blocks_against_finite_differences(block):
    require_slopes(Network((block,), "mean", seed=1), signals(2), target=1)


@pytest.mark.parametrize("head", HEADS)
def test_heads_against_finite_differences(head):
    require_slopes(Network(("Basic",), head, seed=1), signals(2), target=1)


@pytest.mark.parametrize(
    ("target", "start"),
    [
        (None, "probability"),
        ([[1, 2], [0, 4]], "probability"),
        (targets.Sigmoid(3), "probability"),
        (targets.Contrast(1, 2), "probability"),
        (targets.Similarity(torch.linspace(-1, 2, 5, dtype=torch.float64)), "logit"),
        (targets.Given(lambda y: y * y.softmax(1)), "logit"),
        (lambda y: y.norm(dim=1), "logit"),
        (lambda y: y * y.softmax(1), "logit"),
    ],
    ids=["predicted", "several", "label", "contrast", "similarity", "given", "norm", "function"],
)
def test_targets_against_finite_differences(target, start):
    require_slopes(Tiny(), X, target=target, start=start)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_against_finite_differences(kind):
    class Signal(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.fc = kind(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.layer(x)[0][:, -1])

    torch.manual_seed(0)
    require_slopes(Signal().eval(), torch.randn(2, 5, 3, dtype=torch.float64), target=1)


@pytest.mark.parametrize("composite", [None, attnlrp()], ids=["transformer", "attnlrp"])
def test_attention_against_finite_differences(composite):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True)
            self.embed, self.fc = nn.Linear(3, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.layer(self.embed(x)).mean(1))

    torch.manual_seed(0)
    require_slopes(Attends().eval(), torch.randn(2, 5, 3, dtype=torch.float64), target=1, composite=composite)


class Mixed(nn.Module):
    """Interpolation and products of matrices, whose rules take transposes from `torch.func`; a gate; max pooling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.key, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        h = nn.functional.interpolate(self.conv(x).relu(), scale_factor=1.5, mode="bilinear")
        h = nn.functional.max_pool2d(h, 2)
        values, keys = h.flatten(2), self.key(h).flatten(2)
        mixed = (keys.transpose(1, 2) @ keys).softmax(-1) @ values.transpose(1, 2)
        gate = self.key(h).mean((2, 3)).sigmoid()
        return self.fc(mixed.mean(1) * gate + torch.einsum("bcp->bc", values))


def test_linear_steps_and_gates_against_finite_differences():
    require_slopes(Mixed().eval(), X, target=1)


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
        lrp, optimiser = relprop.LRP(copied, differentiable=True), torch.optim.Adam(copied.parameters(), 1e-2)
        for _ in range(40):
            result = lrp(x, y)
            loss = nn.functional.cross_entropy(result.logits, y)
            loss = loss + penalty * result.heatmap[:, :, :4].abs().sum((1, 2)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
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
