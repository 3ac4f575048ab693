"""Rules, one file a kind of operation. Importing this package registers the defaults."""

from relprop.core.rules.affine import (
    alpha_beta,
    epsilon,
    flat,
    gamma,
    w_square,
    z_box,
    z_plus,
    z_plus_bias,
    z_plus_epsilon,
    z_plus_ones,
)
from relprop.core.rules.at_index import add_up
from relprop.core.rules.attention import attention_attnlrp, matmul_rule, softmax_rule
from relprop.core.rules.conserving import conserving_alpha_beta, conserving_gamma
from relprop.core.rules.depth import depth_dependent
from relprop.core.rules.pooling import (
    average_epsilon,
    average_z_plus,
    max_as_average,
    signed_average,
    winner_takes_all,
)
from relprop.core.rules.products import product
from relprop.core.rules.rule import DEFAULTS, OWN, RULES, Rule, default_of, rule
from relprop.core.rules.shape import pass_through
from relprop.core.rules.transpose import spread_back, spread_back_signed

for _rule in (z_plus, z_plus_ones, flat, w_square, winner_takes_all, max_as_average, average_z_plus, pass_through):
    RULES.add(_rule.name.replace(" ", "-"), _rule)
RULES.register("epsilon")(epsilon)
RULES.register("gamma")(gamma)
RULES.register("alpha-beta")(alpha_beta)
RULES.register("z-box")(z_box)
RULES.register("conserving-alpha-beta")(conserving_alpha_beta)
RULES.register("conserving-gamma")(conserving_gamma)

__all__ = [
    "DEFAULTS",
    "OWN",
    "RULES",
    "Rule",
    "add_up",
    "alpha_beta",
    "attention_attnlrp",
    "average_epsilon",
    "average_z_plus",
    "conserving_alpha_beta",
    "conserving_gamma",
    "default_of",
    "depth_dependent",
    "epsilon",
    "flat",
    "gamma",
    "matmul_rule",
    "max_as_average",
    "pass_through",
    "product",
    "rule",
    "signed_average",
    "softmax_rule",
    "spread_back",
    "spread_back_signed",
    "w_square",
    "winner_takes_all",
    "z_box",
    "z_plus",
    "z_plus_bias",
    "z_plus_epsilon",
    "z_plus_ones",
]
