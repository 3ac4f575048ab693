"""Rules that depend on how deep in the network a layer lies."""

from __future__ import annotations

from relprop.core.graph.graph import Graph, Node
from relprop.core.rules.affine import z_plus
from relprop.core.rules.rule import Rule

_CONVOLUTIONS = ("conv", "conv_transpose")


def depth_dependent(rule: Rule, depth: float = 1 / 3, early: Rule = z_plus) -> Rule:
    """Take `rule` at the last convolutions, and `early` at those before them.

    Late layers mix few, specific features of either sign; early ones have many noisy inputs. Composites of the
    literature differ along the depth for that reason (Montavon et al. 2019, section 10.3; Kohlbrenner et al. 2020).

    Args:
        rule: of the last ⌊depth · n⌋ of n convolutions, in the order in which they run.
        depth: that fraction; 1 takes all.
        early: of all others.

    Raises:
        ValueError: no fraction.
    """
    if not 0 < depth <= 1:
        raise ValueError(f"depth must be a fraction of the convolutions, above 0 and up to 1, not {depth}")

    def choose(graph: Graph, node: Node) -> Rule:
        convolutions = [step.index for step in graph.steps if step.op in _CONVOLUTIONS]
        first_late = len(convolutions) - int(depth * len(convolutions) + 1e-9)
        return rule if node.index in convolutions[first_late:] else early

    return Rule(f"{rule.name} late, {early.name} early", rule.share, choose=choose)
