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
from relprop.core.rules.attention import attention_attnlrp, attention_values, matmul_rule, softmax_rule
from relprop.core.rules.conserving import conserving_alpha_beta, conserving_gamma
from relprop.core.rules.depth import depth_dependent
from relprop.core.rules.elementwise import pass_constant, pass_through
from relprop.core.rules.pooling import (
    average_epsilon,
    average_z_plus,
    max_as_average,
    mean_z_plus,
    signed_average,
    winner_of_dimensions,
    winner_takes_all,
)
from relprop.core.rules.products import product
from relprop.core.rules.recurrent import to_signal
from relprop.core.rules.resample import spread_back, spread_back_signed
from relprop.core.rules.rule import DEFAULTS, OWN, RULES, Rule, default_of, rule
from relprop.core.rules.shape import copy_back, cut_up, move_back, scatter_back, unstack
from relprop.core.rules.transpose import by_transpose

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
    "alpha_beta",
    "attention_attnlrp",
    "attention_values",
    "average_epsilon",
    "average_z_plus",
    "by_transpose",
    "conserving_alpha_beta",
    "conserving_gamma",
    "copy_back",
    "cut_up",
    "default_of",
    "depth_dependent",
    "epsilon",
    "flat",
    "gamma",
    "matmul_rule",
    "max_as_average",
    "mean_z_plus",
    "move_back",
    "pass_constant",
    "pass_through",
    "product",
    "rule",
    "scatter_back",
    "signed_average",
    "softmax_rule",
    "spread_back",
    "spread_back_signed",
    "to_signal",
    "unstack",
    "w_square",
    "winner_of_dimensions",
    "winner_takes_all",
    "z_box",
    "z_plus",
    "z_plus_bias",
    "z_plus_epsilon",
    "z_plus_ones",
]
