"""A recurrent layer between a convolution and a classifier: conservation, biases, and that it is one layer."""

from __future__ import annotations

import warnings

import pytest
import torch
from core_recurrent import Last, seeded
from torch import nn

import relprop
from relprop.core.composites.presets import GATED, family_of

LAYERS = [
    (nn.LSTM, {}),
    (nn.LSTM, {"batch_first": True, "num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 3, "bidirectional": True}),
    (nn.LSTM, {"bias": False}),
    (nn.GRU, {}),
    (nn.GRU, {"batch_first": True, "num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"bias": False}),
    (nn.RNN, {"batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 3, "bidirectional": True}),
]
NAMES = [f"{kind.__name__} {' '.join(options)}" for kind, options in LAYERS]
GAP = {torch.float32: 1e-6, torch.float64: 1e-12}


class Signal(nn.Module):
    """Convolution, recurrent layer, classifier."""

    def __init__(self, kind, options) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 5, 2, 2)
        self.last = Last(kind(6, 5, **options))
        size = (options.get("proj_size") or 5) * (1 + options.get("bidirectional", False))
        self.fc = nn.Linear(size, 4)

    def forward(self, x):
        return self.fc(self.last(self.conv(x).relu().transpose(1, 2)))


@pytest.fixture(autouse=True)
def _no_word_on_projections():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        yield


@pytest.mark.parametrize(
    ("kind", "options", "dtype"),
    [
        pytest.param(
            kind, options, dtype, marks=pytest.mark.slow if options and dtype == torch.float32 else (), id=name
        )
        for dtype in GAP
        for name, (kind, options) in zip(NAMES, LAYERS, strict=True)
    ],
)
def test_layers_conserve_and_compute_what_pytorch_does(kind, options, dtype):
    rtol = GAP[dtype]
    model = seeded(Signal, kind, options).to(dtype)
    x = torch.randn(3, 3, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))
    result = relprop.explain(model, x, target=[[0, 3]] * 3)
    with torch.no_grad():
        assert torch.allclose(result.logits, model(x), rtol=0, atol=rtol)
    assert result.ledger.gap <= rtol
    assert result.ledger.absorbed == 0
    total = result.relevance.double().sum((2, 3))
    assert torch.allclose(total, result.score.double(), rtol=rtol * 10)
    alone = relprop.explain(model, x[1:2], target=[[0, 3]])
    assert torch.allclose(alone.relevance, result.relevance[1:2], rtol=1e-3, atol=rtol)


def test_biases_absorb_by_the_epsilon_rule_and_are_named():
    model = seeded(Signal, nn.LSTM, {"batch_first": True}).double()
    x = torch.randn(2, 3, 31, dtype=torch.float64)
    ledger = relprop.explain(model, x, target=1, composite=relprop.epsilon(1e-9)).ledger
    took = {entry.name: took for entry, took in zip(ledger.entries, ledger.absorptions, strict=True)}
    assert ledger.gap <= 1e-12
    assert {name.split("@")[0] for name, part in took.items() if (part.abs() > 1e-9).any()} >= {"last.layer.linear"}
    assert torch.allclose(ledger.start - ledger.end, sum(took.values()), rtol=1e-9)


def test_a_recurrent_layer_is_one_layer_of_the_model():
    model = seeded(Signal, nn.GRU, {"batch_first": True})
    x = torch.randn(2, 3, 11)
    lrp = relprop.LRP(model, keep=["last.layer", "conv"])
    result = lrp(x)
    assert result.at("last.layer", "input").shape == (2, 6, 6)
    assert torch.allclose(result.at("last.layer", "input").sum((1, 2)), result.score, rtol=1e-5)
    graph = lrp.graph(x)
    assert family_of(graph) is GATED
    assert {node.module for node in graph.steps if node.op == "gated"} == {"last.layer"}


def test_traced_layers_are_explained_alike():
    model = seeded(Signal, nn.LSTM, {"batch_first": True, "bidirectional": True})
    x = torch.randn(2, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x)
    expected = relprop.explain(model, x, target=1).relevance
    assert torch.allclose(relprop.explain(traced, x, target=1).relevance, expected, rtol=1e-4, atol=1e-8)
