"""Recurrent layers by the operations that they are made of: LSTM, GRU and RNN, as layers and as cells.

PyTorch computes a whole layer in one call. Here it is computed time by time, by weighted sums, activations and gates,
which have rules: a gate is a constant, and relevance follows the signal that it weighs
(`rules.products.to_signal`). What a layer reads at a time, the input beside the state before, is one weighted sum
wherever it adds up to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import CaptureError

aten = torch.ops.aten

_LIBRARY: Any = torch.library.Library("relprop", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("gated(Tensor signal, Tensor gate, Tensor? bias=None) -> Tensor")


def _gated(signal: Tensor, gate: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gate · (signal + bias), a product of which it is known which operand weighs the other."""
    return signal * gate if bias is None else (signal + bias) * gate


_LIBRARY.impl("gated", _gated, "CompositeImplicitAutograd")
gated = torch.ops.relprop.gated.default

#: hidden state, and the cell of an LSTM
State = tuple[Tensor, ...]
#: (input at one time (N, inputs), state before) -> state after
Step = Callable[[Tensor, State], State]
#: weights of one layer in one direction, as PyTorch orders them -> its step
Cell = Callable[..., Step]


def _lstm(
    w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None, w_hr: Tensor | None = None
) -> Step:
    """C' = f c + i tanh(W [x, h] + b), h' = o tanh(c'); with a projection W_hr h'."""
    (w_i, w_f, w_g, w_o), (b_i, b_f, b_g, b_o) = _both(w_ih, w_hh, b_ih, b_hh, 4)
    w_gates, b_gates = torch.cat([w_i, w_f, w_o]), _stacked(b_i, b_f, b_o)

    def step(x: Tensor, state: State) -> State:
        hidden, cell = state
        read = torch.cat([x, hidden], 1)
        i, f, o = F.linear(read, w_gates, b_gates).sigmoid().chunk(3, 1)
        cell = gated(cell, f) + gated(F.linear(read, w_g, b_g).tanh(), i)
        hidden = gated(cell.tanh(), o)
        return (hidden if w_hr is None else F.linear(hidden, w_hr)), cell

    return step


def _gru(w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Step:
    """N = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h."""
    (w_r, w_z, _), (b_r, b_z, _) = _both(w_ih, w_hh, b_ih, b_hh, 3)
    w_gates, b_gates = torch.cat([w_r, w_z]), _stacked(b_r, b_z)
    w_in, w_hn = w_ih.chunk(3)[2], w_hh.chunk(3)[2]
    b_in, b_hn = (None if b is None else b.chunk(3)[2] for b in (b_ih, b_hh))

    def step(x: Tensor, state: State) -> State:
        (hidden,) = state
        read = torch.cat([x, hidden], 1)
        r, z = F.linear(read, w_gates, b_gates).sigmoid().chunk(2, 1)
        # x is taken out of what is read, so that composites see that this layer reads itself, and is no first one
        new = F.linear(read[:, : x.shape[1]], w_in, b_in) + gated(F.linear(hidden, w_hn), r, b_hn)
        return (gated(new.tanh(), 1 - z) + gated(hidden, z),)

    return step


def _rnn(
    activation: Callable[[Tensor], Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Step:
    """H' = activation(W [x, h] + b)."""
    (weight,), (bias,) = _both(w_ih, w_hh, b_ih, b_hh, 1)
    return lambda x, state: (activation(F.linear(torch.cat([x, state[0]], 1), weight, bias)),)


def _both(
    w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, parts: int
) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    """Weight and bias of the sum that reads input and state side by side, for each part of the layer."""
    biases = [None] * parts if b_ih is None or b_hh is None else (b_ih + b_hh).chunk(parts)
    return torch.cat([w_ih, w_hh], 1).chunk(parts), biases


def _stacked(*biases: Tensor | None) -> Tensor | None:
    return torch.cat([bias for bias in biases if bias is not None]) if biases[0] is not None else None


def _layers(
    cell: Cell, x: Tensor, states: Tensor | Sequence[Tensor], params: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Stacked layers, in one or both directions: outputs of the last for each time, last states of all.

    Args:
        cell: of one layer.
        x: (T, N, inputs), or (N, T, inputs) with `batch_first`.
        states: one (num_layers · directions, N, features), or several, as of an LSTM.
        params: weights of each layer and direction, in order.
        has_biases, num_layers, dropout, train, bidirectional, batch_first: as of `torch.nn.LSTM`.
    """
    states = (states,) if isinstance(states, Tensor) else states
    time, directions = int(batch_first), 1 + bidirectional
    count = len(params) // (num_layers * directions)
    values, ends = _unbound(x, time), []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            step = cell(*params[at * count : (at + 1) * count])
            state = tuple(state[at] for state in states)
            made = []
            for value in values[::-1] if direction else values:
                state = step(value, state)
                made.append(state[0])
            outputs.append(made[::-1] if direction else made)
            ends.append(state)
        values = [torch.cat(pair, 1) if bidirectional else pair[0] for pair in zip(*outputs, strict=True)]
    return torch.stack(values, time), *(torch.stack(last) for last in zip(*ends, strict=True))


def _unbound(x: Tensor, time: int) -> list[Tensor]:
    """The input at each time; in two steps, since relevance of each part is put back into a tensor of the whole."""
    size = math.isqrt(x.shape[time])
    return [part for some in torch.split(x, size, time) for part in some.unbind(time)]


def _cell(cell: Cell, x: Tensor, states: Tensor | Sequence[Tensor], *weights: Tensor) -> Tensor | State:
    """One step: the state after, one tensor where one was given."""
    after = cell(*weights)(x, (states,) if isinstance(states, Tensor) else tuple(states))
    return after[0] if isinstance(states, Tensor) else after


def _refuse_packed(*_: Any) -> Any:
    raise CaptureError(
        "the model packs its sequences (pack_padded_sequence), which takes the images of a batch apart; let it read "
        "them as they are, padded, or one at a time"
    )


_tanh, _relu = partial(_rnn, Tensor.tanh), partial(_rnn, Tensor.relu)

#: calls of recurrent layers and cells, and what they are made of
RECURRENT: dict[Any, Callable[..., Any]] = {
    aten.lstm.input: partial(_layers, _lstm),
    aten.gru.input: partial(_layers, _gru),
    aten.rnn_tanh.input: partial(_layers, _tanh),
    aten.rnn_relu.input: partial(_layers, _relu),
    aten.lstm_cell.default: partial(_cell, _lstm),
    aten.gru_cell.default: partial(_cell, _gru),
    aten.rnn_tanh_cell.default: partial(_cell, _tanh),
    aten.rnn_relu_cell.default: partial(_cell, _relu),
    aten._pack_padded_sequence.default: _refuse_packed,
}
