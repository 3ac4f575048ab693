"""Recurrent layers and cells: against a slow twin, against the same written by hand; states, and what is refused."""

from __future__ import annotations

import core_recurrent
import pytest
import torch
import torch.nn.functional as F
from core_recurrent import Last, seeded
from torch import nn

import relprop
from relprop.core.graph.gates import signal_of
from relprop.errors import CaptureError


class Cells(nn.Module):
    """A cell, time after time."""

    def __init__(self, cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for value in x.unbind(1):
            state = self.cell(value, state)
        return state[0] if isinstance(state, tuple) else state


class ByHand(nn.Module):
    """An LSTM as a page of a textbook has it; which operand of its products is a gate shows by their looks alone."""

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        parts = zip(*(w.chunk(4) for w in (layer.weight_ih_l0, layer.weight_hh_l0)), strict=True)
        biases = (layer.bias_ih_l0 + layer.bias_hh_l0).chunk(4)
        self.i, self.f, self.g, self.o = (linear(torch.cat(w, 1), b) for w, b in zip(parts, biases, strict=True))

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.i.out_features)
        for value in x.unbind(1):
            read = torch.cat([value, h], 1)
            c = self.f(read).sigmoid() * c + self.i(read).sigmoid() * self.g(read).tanh()
            h = self.o(read).sigmoid() * c.tanh()
        return h


class Started(nn.Module):
    """A recurrent layer with first states that are learned."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.h, self.c = (nn.Parameter(torch.randn(1, 1, layer.hidden_size)) for _ in range(2))

    def forward(self, x):
        h, c = self.h.expand(-1, len(x), -1), self.c.expand(-1, len(x), -1)
        return self.layer(x, (h, c) if isinstance(self.layer, nn.LSTM) else h)[0][:, -1]


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


@pytest.mark.parametrize(("kind", "twin"), [(nn.LSTM, core_recurrent.lstm), (nn.GRU, core_recurrent.gru)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_layer_gives_what_its_slow_twin_gives(kind, twin, seed):
    model = seeded(Last, seeded(kind, 3, 5, batch_first=True, seed=seed)).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[0, 2] = 0  # a time at which the input says nothing
    begun = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 9))
    result = relprop.explain(model, x, start=begun)
    for image in range(2):
        given = torch.zeros(6, 5, dtype=torch.float64)
        given[-1] = begun[image]
        states, expected = twin(model.layer, x[image], given)
        assert torch.allclose(states[-1], result.logits[image], atol=1e-14)
        assert torch.allclose(result.relevance[image], expected, rtol=1e-11, atol=1e-13)
        assert result.relevance[image].abs().sum() > 0.1


@pytest.mark.parametrize(
    ("layer", "cell"), [(nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell), (nn.RNN, nn.RNNCell)], ids=["LSTM", "GRU", "RNN"]
)
@pytest.mark.parametrize("bias", [True, False])
def test_cells_give_what_layers_give(layer, cell, bias):
    whole = seeded(Last, seeded(layer, 4, 5, batch_first=True, bias=bias)).double()
    cells = seeded(Cells, cell(4, 5, bias=bias)).double()
    with torch.no_grad():
        for name, value in cells.cell.named_parameters():
            value.copy_(getattr(whole.layer, f"{name}_l0"))
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    ours, theirs = (relprop.explain(model, x, target=2, start="logit") for model in (cells, whole))
    assert torch.allclose(ours.relevance, theirs.relevance, rtol=1e-12, atol=1e-15)
    assert ours.ledger.gap <= 1e-12


def test_an_lstm_gives_what_the_same_by_hand_gives():
    whole = seeded(Last, seeded(nn.LSTM, 4, 5, batch_first=True)).double()
    by_hand = ByHand(whole.layer).eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    ours, theirs = (relprop.explain(model, x, target=2, start="logit") for model in (by_hand, whole))
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-14)
    assert torch.allclose(ours.relevance, theirs.relevance, rtol=1e-11, atol=1e-14)


def test_a_tanh_is_the_signal_of_a_sigmoid():
    class Gate(nn.Module):
        def forward(self, x):
            return x.tanh() * x.sigmoid()

    graph = relprop.LRP(Gate().eval()).graph(torch.rand(1, 3))
    product = graph.nodes[graph.output]
    assert graph.nodes[product.inputs[signal_of(graph, product)]].op == "tanh"


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_a_learned_first_state_absorbs_is_in_the_ledger_by_name(kind):
    model = seeded(Started, seeded(kind, 4, 5, batch_first=True)).double()
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    ledger = relprop.explain(model, x, target=1, start="logit").ledger
    assert ledger.gap <= 1e-12
    absorbed = {entry.name: took for entry, took in zip(ledger.entries, ledger.absorptions, strict=True) if took.any()}
    expected = {nn.LSTM: {"layer.gated", "layer.cat"}, nn.GRU: {"layer.gated", "layer.gated@2"}, nn.RNN: {"layer.cat"}}
    assert absorbed.keys() == expected[kind]
    lost = sum(absorbed.values())
    assert torch.allclose(ledger.start - ledger.end, lost, rtol=1e-12)
    assert (lost.abs() > 1e-4).all()
    with torch.no_grad():
        model.h.zero_()
        model.c.zero_()
    again = relprop.explain(model, x, target=1, start="logit").ledger
    assert again.absorbed == 0
    assert again.gap <= 1e-12


def test_a_changed_first_state_is_noticed():
    model = seeded(Started, seeded(nn.LSTM, 4, 5, batch_first=True)).double()
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    lrp = relprop.LRP(model)
    lrp(x, target=1)
    with torch.no_grad():
        model.c.zero_()
        model.h.mul_(2)
    assert torch.equal(lrp(x, target=1).relevance, relprop.explain(model, x, target=1).relevance)


def test_a_recurrent_layer_on_the_input_reads_its_values_at_every_time():
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        lrp = relprop.LRP(seeded(Last, seeded(kind, 4, 5, batch_first=True)))
        graph = lrp.graph(torch.rand(1, 3, 4))
        assignment = relprop.paper().assign(graph)
        rules = {rule.name for index, rule in assignment.rules.items() if graph.nodes[index].op == "linear"}
        assert rules == {"z+"}


def test_dropout_between_layers_in_training_is_refused():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5, 2, batch_first=True)

        def forward(self, x):
            zeros = x.new_zeros(2, len(x), 5)
            return torch.lstm(x, (zeros, zeros), self.lstm._flat_weights, True, 2, 0.5, True, False, True)[0][:, -1]

    with pytest.raises(CaptureError, match=r"lstm at the model runs as in training mode"):
        relprop.explain(Functional().eval(), torch.rand(2, 3, 4))


def test_a_state_may_come_from_the_input():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.LSTM(4, 5, batch_first=True), nn.LSTM(4, 5, batch_first=True)

        def forward(self, x):
            return self.decoder(F.pad(x[:, -1:], (0, 0, 0, 2)), self.encoder(x)[1])[0][:, -1]

    result = relprop.explain(seeded(Decoder).double(), torch.randn(2, 5, 4, dtype=torch.float64), start="logit")
    assert result.ledger.gap <= 1e-12
    assert result.ledger.absorbed == 0
    assert (result.relevance[:, :-1].abs().sum((1, 2)) > 0).all()


def test_packed_sequences_are_refused():
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5, batch_first=True)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0][:, -1]

    with pytest.raises(CaptureError, match=r"packs its sequences .* padded, or one at a time"):
        relprop.explain(Packs().eval(), torch.rand(2, 3, 4))
