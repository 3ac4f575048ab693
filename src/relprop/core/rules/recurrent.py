"""The rule for gates of recurrent layers: relevance follows what is weighed (Arras et al. 2017, arXiv 1706.07206).

With h' = o tanh(c'), c' = f c + i g and g = tanh(W [x, h] + b) of an LSTM, all relevance of h' is that of c', which is
split between f c and i g as at any join; f, i and o are constants, so the parts go to c and g whole, and from g to the
input x and the state h by the rule of the weighted sum. GRUs likewise (Arjona-Medina et al. 2019, arXiv 1806.07857, for
when that conserves). A state that does not depend on the image, such as a first one that is learned, absorbs its part.
"""

from __future__ import annotations

from torch import Tensor

from relprop.core.graph.graph import Graph, Node, Ref
from relprop.core.rules.rule import DEFAULTS, Rule, Shares
from relprop.core.rules.step import Absent, Step


def to_signal(step: Step, relevance: Tensor) -> Shares:
    """All to the signal: R_s = R, R_gate = 0; nothing where the signal is a constant."""
    signal = relevance if isinstance(step.args[0], Absent) else None
    return (signal, *[None] * (len(step.inputs) - 1))


def _choose(graph: Graph, node: Node) -> Rule:
    if isinstance(node.args[0], Ref):
        return Rule("gate: signal", to_signal, frozenset(), receives=(True, *[False] * (len(node.inputs) - 1)))
    return Rule("constant state", to_signal, frozenset(), conserves=False, receives=(False,) * len(node.inputs))


DEFAULTS["gated"] = Rule("gate", to_signal, frozenset(), choose=_choose)
