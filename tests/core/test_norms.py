"""Normalisations, gates and products: by hand, against dense loops, and in small networks of the families."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_through import inject
from torch import Tensor, nn

import core_dense as slow
import relprop
from relprop.core import rules
from relprop.core.capture import capture
from relprop.core.composites.presets import family_of


def explain(net: nn.Module, x: Tensor, **options) -> relprop.Relevance:
    return relprop.LRP(net.eval(), **options)(x, target=0)


class Middle(nn.Module):
    """(N, 6) -> something -> a head that sends known relevance back."""

    def __init__(self, middle, outputs: int = 6) -> None:
        super().__init__()
        self.middle, self.head = middle, nn.Linear(outputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(x))


def back(middle, x: Tensor, relevance: Tensor, **options) -> Tensor:
    composite = relprop.paper().override(names={"head": inject(relevance)}, **options)
    return explain(Middle(middle, relevance.shape[1]), x, composite=composite).relevance


X = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]])
R = torch.arange(1.0, 7.0)[None]

PASSING = {
    "layer norm": nn.LayerNorm(6),
    "group norm": lambda x: F.group_norm(x, 2),
    "rms norm": lambda x: F.rms_norm(x, (6,)),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "unit length": lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "silu": F.silu,
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "layer scale": lambda x: x * torch.full((6,), 0.1),
    "layer scale with shift": lambda x: torch.addcmul(torch.ones(6), torch.full((6,), 0.1), x),
    "gate of a mean": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
    "softmax": lambda x: torch.softmax(x, -1),
    "there and back": lambda x: torch.stack([x, x * 2]).flip(0)[1],
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_relevance_unchanged(name):
    torch.testing.assert_close(back(PASSING[name], X, R), R)


def test_what_moves_or_shares_relevance_by_hand():
    three = R[:, :3]
    zeros = torch.zeros(1, 3)
    assert back(lambda x: F.glu(x), X, three).tolist() == torch.cat([three, zeros], 1).tolist()
    assert back(lambda x: x.roll(2, 1), X, R).tolist() == [[3, 4, 5, 6, 1, 2]]
    assert back(lambda x: x[:, torch.tensor([0, 0, 5])], X, three).tolist() == [[3, 0, 0, 0, 0, 3]]
    # a product of two plain values: half each; of a value with itself: all to it
    halves = back(lambda x: x[:, :3] * x[:, 3:], X, three)
    assert halves.tolist() == [[0.5, 1, 1.5, 0.5, 1, 1.5]]
    torch.testing.assert_close(back(lambda x: x * x, X, R), R)
    # the larger of two
    assert back(lambda x: torch.maximum(x[:, :3], x[:, 3:]), X, three).tolist() == [[1, 0, 3, 0, 2, 0]]
    # cumulative sum of 1, -2, 3: the z+ shares of 1, 1 and 4, and the relevance 1, 2 and 3 of them
    shared = back(lambda x: torch.cumsum(x[:, :3], 1), X, three)
    torch.testing.assert_close(shared[0, :3], torch.tensor([1 + 2 + 3 / 4, 0, 9 / 4]))


def test_a_constant_that_is_chosen_absorbs():
    keep = torch.tensor([True, False, True, False, True, False])
    composite = relprop.paper().override(names={"head": inject(R)})
    result = explain(Middle(lambda x: torch.where(keep, x, 0.5)), X, composite=composite)
    assert result.relevance.tolist() == [[1, 0, 3, 0, 5, 0]]
    where = next(e for e in result.ledger.entries if e.op == "where")
    assert (float(where.received), float(where.sent), where.conserves) == (21, 9, False)
    assert result.ledger.gap < 1e-6


class SqueezeExcite(nn.Module):
    """A convolution, its gate, and another convolution: the parts of SE-ResNet and EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.down, self.up, self.head = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(3 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv(x))
        gate = torch.sigmoid(self.up(F.silu(self.down(h.mean((2, 3), keepdim=True)))))
        return self.head(self.next(h * gate).flatten(1))

    def gated(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv(x))
        return h * torch.sigmoid(self.up(F.silu(self.down(h.mean((2, 3), keepdim=True)))))


def test_squeeze_and_excitation_equals_its_dense_twin():
    torch.manual_seed(1)
    net = SqueezeExcite().double().eval()
    x, arriving = torch.randn(1, 2, 4, 4).double(), torch.rand(1, 12).double()
    composite = relprop.paper().override(names={"head": inject(arriving)})
    found = explain(net, x, composite=composite)
    w, b, field = slow.dense(net.next, (4, 4, 4))
    with torch.no_grad():
        at_product = slow.z_plus(w, b, field, net.gated(x).flatten(), arriving[0])
    w, b, field = slow.dense(net.conv, (2, 4, 4))
    expected = slow.z_plus_ones(w, b, field, x.flatten(), at_product)
    torch.testing.assert_close(found.relevance.flatten(), expected.detach(), rtol=1e-11, atol=1e-13)
    assert found.ledger.gap < 1e-12


def test_a_gate_can_have_a_share():
    torch.manual_seed(1)
    net = SqueezeExcite()
    x = torch.randn(2, 2, 4, 4)
    composite = relprop.paper().override(rules={"mul": rules.product(0.25)})
    result = relprop.LRP(net.eval(), composite, keep=["up", "mul"])(x)
    assert result.at("up").sum().item() == pytest.approx(0.25 * result.at("mul").sum().item(), rel=1e-5)
    assert result.ledger.gap < 1e-5
    with pytest.raises(ValueError, match="between 0 and 1"):
        rules.product(1.5)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm over channels, two linear layers, a layer scale; an identity skip."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(2, size, 1), nn.Conv2d(size, size, 3, padding=1, groups=size)
        self.norm, self.wide, self.narrow = nn.LayerNorm(size), nn.Linear(size, 5), nn.Linear(5, size)
        self.scale, self.head = nn.Parameter(torch.full((size,), 0.3)), nn.Linear(size * 4, 2)

    def main(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.norm(self.depthwise(h).permute(0, 2, 3, 1))
        hidden = F.gelu(self.wide(normed))
        return normed, hidden, (self.narrow(hidden) * self.scale).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head((h + self.main(h)[2]).flatten(1))


def test_a_convnext_block_equals_its_dense_twin():
    torch.manual_seed(2)
    net = ConvNeXtBlock().double().eval()
    x, arriving = torch.randn(1, 2, 2, 2).double(), torch.rand(1, 12).double()
    found = explain(net, x, composite=relprop.paper().override(names={"head": inject(arriving)}))
    with torch.no_grad():
        h = net.stem(x)
        normed, hidden, main = net.main(h)
        share = h.abs() / (h.abs() + main.abs())  # Eq. 5
        at_skip = arriving.view_as(h) * share
        at_main = (arriving.view_as(h) - at_skip).permute(0, 2, 3, 1).reshape(4, 3)
        fields = torch.ones(3, 5).double(), torch.ones(5, 3).double()
        hidden, normed = hidden.reshape(4, 5), normed.reshape(4, 3)
        at_hidden = [slow.z_plus(net.narrow.weight, None, fields[0], hidden[p], at_main[p]) for p in range(4)]
        at_normed = [slow.z_plus(net.wide.weight, None, fields[1], normed[p], at_hidden[p]) for p in range(4)]
        at_depthwise = torch.stack(at_normed).view(1, 2, 2, 3).permute(0, 3, 1, 2).flatten()
    w, b, field = slow.dense(net.depthwise, (3, 2, 2))
    at_fork = slow.z_plus(w, b, field, h.flatten(), at_depthwise) + at_skip.flatten()
    w, b, field = slow.dense(net.stem, (2, 2, 2))
    expected = slow.z_plus_ones(w, b, field, x.flatten(), at_fork)
    torch.testing.assert_close(found.relevance.flatten(), expected.detach(), rtol=1e-11, atol=1e-13)


class Parallel(nn.Module):
    """A block whose attention and perceptron stand side by side: a join of three."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.value = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.wide, self.narrow, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        h = self.norm(x)
        attended = F.scaled_dot_product_attention(h, h, self.value(h))
        return self.head((x + attended + self.narrow(F.gelu(self.wide(h)))).mean(1))


def test_a_parallel_block_is_one_join_of_three():
    torch.manual_seed(0)
    net, x = Parallel().eval(), torch.randn(2, 5, 4)
    graph = capture(net, x)
    assert family_of(graph).name == "transformer"
    (join,) = relprop.paper().assign(graph).joins.values()
    assert join.skips == join.identities == (True, False, False)
    result = relprop.explain(net, x)
    assert result.composite == "transformer"
    assert result.ledger.gap < 1e-6
    assert result.ledger.absorbed == 0


def test_families_and_what_is_named():
    gated, plain = capture(SqueezeExcite().eval(), torch.randn(1, 2, 4, 4)), nn.Sequential(nn.Linear(3, 2))
    assert [family_of(gated).name, family_of(gated).composite().name] == ["gated network", "paper"]
    assert family_of(capture(plain.eval(), torch.randn(1, 3))).name == "convolutional network"
    named = relprop.explain(Parallel().eval(), torch.randn(2, 5, 4), composite=relprop.paper())
    assert named.composite == "paper"


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (lambda x: x.view(-1, 3, 2).amax(2), [1, 0, 2, 0, 3, 0]),
        (lambda x: x.view(-1, 3, 2).amax(2, keepdim=True).flatten(1), [1, 0, 2, 0, 3, 0]),
        (lambda x: x.view(-1, 3, 2).amin(-1), [0, 1, 0, 2, 0, 3]),
        (lambda x: x.view(-1, 2, 3).max(dim=1).values, [1, 0, 3, 0, 2, 0]),
        (lambda x: x.view(-1, 2, 3, 1).amax((1, 3)), [1, 0, 3, 0, 2, 0]),
        (lambda x: x.clamp(max=0.5).view(-1, 2, 3).amax(2), [1, 0, 0, 0, 2, 0]),
        (lambda x: F.pad(x - 9, (2, 0)).view(-1, 2, 4).amax(2), [1, 0, 0, 0, 2, 0]),
    ],
    ids=["amax", "keepdim", "amin", "max", "two dims", "the first of several", "padding is no winner"],
)
def test_the_largest_along_dimensions_takes_all(middle, expected):
    """Output k has relevance k."""
    relevance = torch.arange(1.0, max(expected) + 1)[None]
    assert back(middle, X, relevance)[0].tolist() == expected
