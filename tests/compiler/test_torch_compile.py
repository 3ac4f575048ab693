"""What `torch.compile` makes of models, and of the graphs of explanations."""

from __future__ import annotations

import torch
from torch import nn

import relprop
from relprop.core.backward import compiled


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_model_is_taken_out_of_its_compiler():
    model = network()
    made = torch.compile(model, backend="eager")
    for wrapped in (made, nn.DataParallel(made)):
        assert relprop.LRP(wrapped).model is model
    assert torch.equal(relprop.explain(made, X).relevance, relprop.explain(model, X).relevance)


def test_the_graph_of_an_explanation_is_one_that_torch_compiles(monkeypatch):
    """In one piece, or else it warns, which is an error here; by a backend that only runs it."""
    given = []
    monkeypatch.setattr(compiled, "BACKEND", lambda graph, inputs: given.append(graph) or graph)
    model = network()
    lrp, expected = relprop.LRP(model, compile=True), relprop.explain(model, X)
    for _ in range(2):
        found = lrp(X)
    assert len(given) == 1
    torch.testing.assert_close(found.relevance, expected.relevance)
    assert found.ledger.gap < 1e-6
