"""Rules for products, quotients and choices of two values that both depend on the image, and for gates."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.core.graph.gates import signal_of
from relprop.core.graph.graph import Graph, Node, Ref
from relprop.core.rules.rule import DEFAULTS, Absent, Rule, Shares, Step, rule
from relprop.core.rules.shape import fit, pass_constant


def product(gate: float = 0.0) -> Rule:
    """Share a product s·g of a signal and a gate: R_s = (1 - gate) R, R_g = gate R.

    By default the signal takes all (Arras et al. 2017), so that a squeeze-and-excitation, an explicit x·σ(x) or a
    normalisation passes relevance on. Where neither operand is a gate by its looks (`relprop.core.graph.gates`),
    both get half. A quotient's signal is its numerator.

    Args:
        gate: the gate's share, from 0 to 1.
    """
    if not 0 <= gate <= 1:
        raise ValueError(f"a gate's share must lie between 0 and 1, not {gate}")

    def choose(graph: Graph, node: Node) -> Rule:
        if len(node.inputs) == 1:
            return pass_constant
        if len(node.inputs) > 2:
            return made  # cannot serve: a step of three values
        signal = 0 if node.op == "div" else signal_of(graph, node)
        if signal is None:
            return _shared((0.5, 0.5), "product: equal shares")
        shares = (1 - gate, gate) if signal == 0 else (gate, 1 - gate)
        return _shared(shares, "product: signal" if not gate else f"product: gate {gate:g}")

    made = Rule("product", _unreachable, frozenset(), choose=choose)
    return made


def _unreachable(step: Step, relevance: Tensor) -> Shares:
    raise AssertionError(f"the rule of {step.node.name} was not chosen")


def _shared(shares: tuple[float, float], name: str) -> Rule:
    def share(step: Step, relevance: Tensor) -> Shares:
        parts = [relevance * part if part != 1 else relevance for part in shares]
        if all(shares):
            parts[1] = relevance - parts[0]
        return tuple(fit(r, s) if p else None for r, s, p in zip(parts, step.shapes, shares, strict=True))

    return Rule(name, share, frozenset(), receives=(shares[0] > 0, shares[1] > 0))


DEFAULTS["mul"] = DEFAULTS["div"] = product()


def _where(graph: Graph, node: Node) -> Rule:
    """The condition gets nothing; where a constant is chosen, it absorbs."""
    by_image = [isinstance(a, Ref) for a in node.args]
    receives = tuple(position > 0 for position, depends in enumerate(by_image) if depends)
    return Rule("chosen", where_chosen, frozenset({"inputs"}), conserves=all(by_image[1:]), receives=receives)


def where_chosen(step: Step, relevance: Tensor) -> Shares:
    """`where(c, a, b)`: to a where c holds, to b elsewhere."""
    condition, *operands = step.args
    shares: list[Tensor | None] = []
    if isinstance(condition, Absent):
        condition = step.inputs[0]
        shares = [None]
    parts = (torch.where(condition, relevance, 0), torch.where(condition, 0, relevance))
    shares += [fit(part, a.shape) for part, a in zip(parts, operands, strict=True) if isinstance(a, Absent)]
    return tuple(shares)


DEFAULTS["where"] = Rule("chosen", where_chosen, choose=_where)


@rule("maximum", "minimum", name="chosen", several=True)
def larger_chosen(step: Step, relevance: Tensor) -> Shares:
    """`maximum(a, b)`, `minimum`: to the one that the value is of, in equal shares where both are."""
    if len(step.inputs) == 1:
        return fit(relevance, step.shapes[0])
    first, second = step.inputs
    assert first is not None
    assert second is not None
    sign = 1 if step.node.op == "maximum" else -1
    share = (torch.sign(first - second) * sign + 1) / 2
    mine = relevance * share
    return fit(mine, step.shapes[0]), fit(relevance - mine, step.shapes[1])


@rule("glu", name="gated half", reads=())
def glu(step: Step, relevance: Tensor) -> Tensor:
    """GLU(a, b) = a σ(b): all to the half that is gated, a."""
    dim = step.args[1] if len(step.args) > 1 else -1
    return torch.cat([relevance, torch.zeros_like(relevance)], dim)


def to_signal(step: Step, relevance: Tensor) -> Shares:
    """All to the signal that a gate of a recurrent layer weighs: R_s = R, R_gate = 0 (Arras et al. 2017).

    With h' = o tanh(c'), c' = f c + i g and g = tanh(W [x, h] + b) of an LSTM, all relevance of h' is that of c', which
    is split between f c and i g as at any join; f, i and o are constants, so the parts go to c and g whole, and from g
    to the input x and the state h by the rule of the weighted sum. GRUs likewise (Arjona-Medina et al. 2019, arXiv
    1806.07857, for when that conserves). A state that does not depend on the image, such as a first one that is
    learned, absorbs its part.
    """
    signal = relevance if isinstance(step.args[0], Absent) else None
    return (signal, *[None] * (len(step.inputs) - 1))


def _gated(graph: Graph, node: Node) -> Rule:
    if isinstance(node.args[0], Ref):
        return Rule("gate: signal", to_signal, frozenset(), receives=(True, *[False] * (len(node.inputs) - 1)))
    return Rule("constant state", to_signal, frozenset(), conserves=False, receives=(False,) * len(node.inputs))


DEFAULTS["gated"] = Rule("gate", to_signal, frozenset(), choose=_gated)


@rule("prod", "cumprod", name="product: equal shares", reads=())
def equal_factors(step: Step, relevance: Tensor) -> Tensor:
    """Equal shares for the n factors of a product, R_i = Σ_j R_j / n_j, as for two of which neither is a gate."""
    ones = relevance.new_ones(step.shapes[0])
    if len(step.args) < 2:
        return relevance * ones / ones.numel()
    dim: int = step.args[1]
    if step.node.op == "cumprod":
        return (relevance / ones.cumsum(dim)).flip(dim).cumsum(dim).flip(dim)
    kept = relevance if relevance.dim() == ones.dim() else relevance.unsqueeze(dim)
    return kept * ones / ones.shape[dim]
