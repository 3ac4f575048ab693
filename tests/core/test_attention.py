"""Attention by hand, by dense loops, and in small transformers of both libraries; class tokens, windows, heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_through import inject
from torch import Tensor, nn

import core_dense as slow
import relprop
from relprop.core import rules


class Values(nn.Module):
    """Attention with queries and keys of zeros, so that every weight is 1 / tokens, on tokens given as the input."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.head = spelling, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:  # (N, tokens, 2)
        if self.spelling == "one call":
            out = F.scaled_dot_product_attention(x * 0, x * 0, x)
        elif self.spelling == "mask":
            out = F.scaled_dot_product_attention(x * 0, x * 0, x, attn_mask=x @ x.transpose(1, 2) * 0)
        else:
            out = torch.softmax((x * 0) @ (x * 0).transpose(1, 2), -1) @ x
        return self.head(out[:, 0])


@pytest.mark.parametrize("spelling", ["one call", "mask", "softmax"])
def test_values_share_by_hand(spelling):
    """Channel 0: values 3, 1, -2 share 8 as 6, 2, 0. Channel 1: none is positive, so 6 goes by the weights, 2 each."""
    x = torch.tensor([[[3.0, -1.0], [1.0, -2.0], [-2.0, -3.0]]])
    composite = relprop.paper().override(names={"head": inject(torch.tensor([[8.0, 6.0]]))})
    result = relprop.LRP(Values(spelling).eval(), composite)(x, target=0)
    torch.testing.assert_close(result.relevance[0], torch.tensor([[6.0, 2.0], [2.0, 2.0], [0.0, 2.0]]))


class Masked(nn.Module):
    """Attention with a mask that depends on the image, as relative positions weighed by queries do."""

    def __init__(self, explicit: bool) -> None:
        super().__init__()
        self.explicit, self.value, self.head = explicit, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:  # (N, tokens, 4)
        mask, value = torch.tanh(x @ x.transpose(1, 2)) * 3, self.value(x)
        if self.explicit:
            out = torch.softmax(x @ x.transpose(1, 2) / 2 + mask, -1) @ value
        else:
            out = F.scaled_dot_product_attention(x, x, value, attn_mask=mask)
        return self.head(out.mean(1))


def test_a_mask_that_depends_on_the_image_weighs_and_is_paid_nothing():
    torch.manual_seed(0)
    x, nets = torch.randn(2, 5, 4, dtype=torch.float64), [Masked(explicit).eval().double() for explicit in (0, 1)]
    nets[1].load_state_dict(nets[0].state_dict())
    one, other = (relprop.explain(net, x) for net in nets)
    torch.testing.assert_close(one.relevance, other.relevance, rtol=1e-12, atol=1e-16)
    assert one.ledger.gap < 1e-14
    assert one.ledger.absorbed == 0


class Block(nn.Module):
    """One head of attention with its four linear layers, in float64."""

    def __init__(self, explicit: bool, size: int = 3) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.head = nn.Linear(size, 2)
        self.explicit = explicit

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.explicit:
            out = torch.bmm((query @ key.transpose(1, 2) / 3**0.5).softmax(-1), value)
        else:
            out = F.scaled_dot_product_attention(query, key, value)
        return self.head(self.out(out)[:, 1])


def dense_block(net: Block, x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance (T, C) of tokens x when `relevance` (C,) arrives at token 1 of the block's output, by loops."""
    tokens, size = x.shape
    weights = (net.query(x) @ net.key(x).T / 3**0.5).softmax(-1)
    value = net.value(x)
    field = torch.ones(size, size, dtype=x.dtype)
    attended = (weights @ value)[1]
    at_out = slow.z_plus(net.out.weight, None, field, attended, relevance)
    at_values = torch.zeros_like(value)
    for c in range(size):
        z = [max(0.0, float(weights[1, j] * value[j, c])) for j in range(tokens)]
        for j in range(tokens):
            share = z[j] / sum(z) if sum(z) else float(weights[1, j])
            at_values[j, c] = share * at_out[c]
    return torch.stack([slow.z_plus_ones(net.value.weight, None, field, x[j], at_values[j]) for j in range(tokens)])


@pytest.mark.parametrize("explicit", [False, True])
def test_a_block_equals_its_dense_twin(explicit):
    torch.manual_seed(3)
    net = Block(explicit).double().eval()
    x = torch.randn(2, 5, 3).double()
    arriving = torch.rand(2, 3).double()
    injected = torch.zeros(2, 3).double() + arriving
    composite = relprop.paper().override(names={"head": inject(injected)})
    result = relprop.LRP(net, composite)(x, target=0)
    with torch.no_grad():
        expected = torch.stack([dense_block(net, x[n], arriving[n]) for n in range(2)])
    torch.testing.assert_close(result.relevance, expected, rtol=1e-12, atol=1e-14)
    assert (net.value(x) < 0).all(1).any() or (net.value(x) > 0).any()


def test_attnlrp_equals_autograd_of_its_equations():
    """x ∘ gradient, with each product's gradient halved and softmax's kept, is AttnLRP with ε = 0 on one block."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 4, 3).double() for _ in range(3))
    relevance = torch.rand(1, 4, 3).double()

    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 2).double()

        def forward(self, x):
            return self.head(F.scaled_dot_product_attention(x[:, :4], x[:, 4:8], x[:, 8:]).flatten(1))

    x = torch.cat([query, key, value], 1)
    composite = relprop.paper().override(
        rules={"scaled_dot_product_attention": rules.attention_attnlrp(0.0)},
        names={"head": inject(relevance)},
    )
    result = relprop.LRP(Three().eval(), composite)(x, target=0)
    logits = query @ key.transpose(1, 2) / 3**0.5
    weights = logits.softmax(-1)
    share = relevance / (2 * (weights @ value))
    expected_values = value * torch.einsum("nij,nic->njc", weights, share)
    at_weights = torch.einsum("nij,nic,njc->nij", weights, share, value)
    at_logits = logits * (at_weights - weights * at_weights.sum(-1, keepdim=True))
    part = at_logits / (2 * logits)
    expected_query = query * torch.einsum("nij,njc->nic", part, key) / 3**0.5
    expected_key = key * torch.einsum("nij,nic->njc", part, query) / 3**0.5
    expected = torch.cat([expected_query, expected_key, expected_values], 1)
    torch.testing.assert_close(result.relevance, expected, rtol=1e-10, atol=1e-12)
    assert result.ledger.absorbed > 1e-3  # softmax does not conserve, and says so
    assert result.ledger.gap < 1e-12


def test_multi_head_attention_that_returns_its_weights():
    """`need_weights=True` takes torch's explicit path; both paths explain alike."""

    class Net(nn.Module):
        def __init__(self, need_weights):
            super().__init__()
            self.need_weights = need_weights
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            h, _ = self.attention(x, x, x, need_weights=self.need_weights)
            return self.head((x + h).mean(1))

    torch.manual_seed(0)
    nets = [Net(True).eval(), Net(False).eval()]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 4, 8)
    first, second = (relprop.explain(net, x, 1) for net in nets)
    torch.testing.assert_close(first.relevance, second.relevance, rtol=1e-4, atol=1e-7)
    assert max(first.ledger.gap, second.ledger.gap) < 1e-6


class Outlook(nn.Module):
    """Attention within windows that `unfold` cuts, padding included, over values that are all negative."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weigh, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 9, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(-F.relu(self.stem(x)) - 1, 3, padding=1).view(len(x), 4, 9, -1).permute(0, 3, 2, 1)
        weights = self.weigh(x).flatten(2).transpose(1, 2).unsqueeze(2).softmax(-1)
        return self.head((weights @ windows).squeeze(2).mean(1))


def test_padding_of_windows_gets_nothing():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    result = relprop.explain(Outlook().eval().double(), x)
    assert result.ledger.gap < 1e-14
    assert result.ledger.absorbed == 0
    torch.testing.assert_close(result.heatmap.sum((1, 2)), result.score, rtol=1e-12, atol=0)
