"""The composites by name: the paper's method made exact, the authors' released code, and the classics.

And which of them a network takes where none is named, by what its graph contains (`family_of`).

| name | weighted layers | first layer | classifier | averages | max pooling | joins |
|---|---|---|---|---|---|---|
| paper | z+ | z+ on ones | z+ | z+ | winner | ratio |
| released | z+, ε 1e-5 | on ones | as all | with ε | 2x2 average | ratio |
| two-sided | z+ early, α2β1 (no bias) late | z+ on ones | mean-subtracted | z+ | winner | ratio |
| original | LRP-0 | LRP-0 | LRP-0 | signed | winner | signed |
| epsilon | ε | ε | ε | signed | winner | signed |
| gamma | γ | γ | γ | signed | winner | signed |
| epsilon-plus-flat | z+ | flat | ε | signed | winner | signed |
| epsilon-gamma-box | γ 0.25 | zᴮ | ε | signed | winner | signed |
| epsilon-alpha2-beta1-flat | α2β1 | flat | ε | signed | winner | signed |
| transformer | z+ | z+ on ones | z+ | z+ | winner | ratio |
| attnlrp | ε | ε | ε | signed | winner | signed |

The classics follow Montavon et al. 2019 (Layer-Wise Relevance Propagation: An Overview) and Kohlbrenner et al.
2020, under the names that zennit gives them: "ε" stands at linear layers, the other rules at convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from relprop.core import rules
from relprop.core.composites.composite import BatchNorm, Composite
from relprop.core.graph.graph import Graph
from relprop.core.rules.contrast import contrast
from relprop.core.rules.mean_subtracted import mean_subtracted
from relprop.core.rules.splits import SPLITS, Split, signed
from relprop.errors import UsageError
from relprop.registry import Registry

COMPOSITES: Registry[Composite] = Registry("composite")

SplitName = Literal["ratio", "symmetric", "signed"]

Classifier = Literal["z+", "epsilon", "mean-subtracted", "contrast"]

_CLASSIFIERS: dict[str, rules.Rule | None] = {
    "z+": None,
    "epsilon": rules.epsilon(1e-6),
    "mean-subtracted": mean_subtracted,
    "contrast": contrast,
}


def _split(split: str | Split) -> Split:
    return split if callable(split) else SPLITS.build(split)


@COMPOSITES.register("paper")
def paper(
    split: SplitName | Split = "ratio",
    identity: bool = True,
    first: Literal["ones", "image"] = "ones",
    max_pool: Literal["winner", "average"] = "winner",
    batch_norm: BatchNorm = "pass",
    classifier: Classifier = "z+",
) -> Composite:
    """The method of Otsuki et al. 2024, made exact: z⁺-rule everywhere, Relevance Splitting at joins.

    Args:
        split: "ratio" (Eq. 5) or "symmetric" (Eq. 4), or a function of your own.
        identity: whether identity skips get their share; (i) to (iv) of Table 2 are symmetric/False,
            symmetric/True, ratio/False, ratio/True.
        first: "ones": the first layer takes its input as ones, as the release does, so that the pixels' values do
            not enter its rule; "image": the z⁺-rule on the pixels, of either sign.
        max_pool: "winner" takes all, or share by the z⁺-rule over the window, as an "average".
        batch_norm: "pass" relevance through (the paper), or "fold" it into the convolution before it.
        classifier: rule of the last weighted layer: "z+" (the paper), which looks at what speaks for the class alone;
            "epsilon", signed, so that what speaks against it counts too; or "mean-subtracted", which is signed and
            looks at how the class differs from the mean of all. The maps of these two have both signs.
    """
    _require_choice("first", first, ("ones", "image"))
    _require_choice("max_pool", max_pool, ("winner", "average"))
    _require_choice("classifier", classifier, tuple(_CLASSIFIERS))
    return Composite(
        name="paper",
        rules=dict.fromkeys(("max_pool", "adaptive_max_pool"), rules.max_as_average) if max_pool == "average" else {},
        first=rules.z_plus_ones if first == "ones" else None,
        classifier=_CLASSIFIERS[classifier],
        split=_split(split),
        identity=identity,
        batch_norm=batch_norm,
    )


@COMPOSITES.register("released")
def released(split: SplitName | Split = "ratio", identity: bool = True, eps: float = 1e-5) -> Composite:
    """The authors' released code, quirk by quirk.

    An unsigned ε of 1e-5 in every denominator (it absorbs relevance), a first layer that takes its input as ones,
    and max pooling taken for a 2x2 average of stride 2. Its Heat Quantization is `quantized(edges="release")`.
    """
    weighted, average = rules.z_plus_epsilon(eps), rules.average_epsilon(eps)
    pooled = rules.average_epsilon(eps, window=2)
    return Composite(
        name="released",
        rules={
            **dict.fromkeys(("conv", "conv_transpose", "linear"), weighted),
            **dict.fromkeys(("adaptive_avg_pool", "avg_pool"), average),
            "max_pool": pooled,
        },
        first=rules.z_plus_epsilon(eps, ones=True),
        split=_split(split),
        identity=identity,
    )


LateRule = Literal["alpha2-beta1", "gamma"]

_LATE: dict[str, rules.Rule] = {
    "alpha2-beta1": rules.conserving_alpha_beta(2, 1),
    "gamma": rules.conserving_gamma(0.25),
}


@COMPOSITES.register("two-sided")
def two_sided(
    late: LateRule = "alpha2-beta1",
    depth: float = 1 / 3,
    split: SplitName | Split = "ratio",
    identity: bool = True,
    first: Literal["ones", "image"] = "ones",
    classifier: Classifier = "mean-subtracted",
    batch_norm: BatchNorm = "fold",
) -> Composite:
    """The paper's rules at early layers; at late ones and the classifier what speaks against a class counts too.

    Rules that differ along the depth are those of Montavon et al. 2019 (section 10.3) and Kohlbrenner et al. 2020, the
    αβ- and γ-rules those of Bach et al. 2015 and Montavon et al. 2019; here they leave the bias out, so that
    nothing is absorbed (`relprop.core.rules.conserving`). Maps have both signs.

    Args:
        late: rule of the last convolutions: "alpha2-beta1" or "gamma" (0.25).
        depth: which are the last: this fraction of all convolutions.
        split, identity, first, classifier: as of `paper`.
        batch_norm: "fold" it into the convolution before it, whose weights then have the sign that they act with; or
            "pass" relevance through.
    """
    _require_choice("late", late, tuple(_LATE))
    if not 0 < depth <= 1:
        raise UsageError(f"depth must be a fraction of the convolutions, above 0 and up to 1, not {depth}")
    base = paper(split=split, identity=identity, first=first, classifier=classifier, batch_norm=batch_norm)
    rule = rules.depth_dependent(_LATE[late], depth)
    return replace(base, name="two-sided", rules=dict.fromkeys(("conv", "conv_transpose"), rule))


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _classic(
    name: str, convolution: rules.Rule, dense: rules.Rule, first: rules.Rule | None, eps: float, batch_norm: BatchNorm
) -> Composite:
    """A composite of the literature: signed shares at averages and joins."""
    average = rules.signed_average(eps)
    return Composite(
        name=name,
        rules={
            "conv": convolution,
            "conv_transpose": convolution,
            "linear": dense,
            **dict.fromkeys(("avg_pool", "adaptive_avg_pool", "mean", "sum"), average),
        },
        first=first,
        split=signed,
        batch_norm=batch_norm,
    )


@COMPOSITES.register("original")
def original(batch_norm: BatchNorm = "pass") -> Composite:
    """LRP-0 (Bach et al. 2015, Eq. 56): shares by contribution, bias included, nothing stabilised."""
    plain = rules.epsilon(0.0)
    return _classic("original", plain, plain, None, 0.0, batch_norm)


@COMPOSITES.register("epsilon")
def epsilon(eps: float = 1e-6, batch_norm: BatchNorm = "pass") -> Composite:
    """The ε-rule at every weighted layer (Bach et al. 2015, Eq. 58)."""
    stable = rules.epsilon(eps)
    return _classic("epsilon", stable, stable, None, eps, batch_norm)


@COMPOSITES.register("gamma")
def gamma(g: float = 0.25, batch_norm: BatchNorm = "pass") -> Composite:
    """The γ-rule at every weighted layer (Montavon et al. 2019)."""
    favour = rules.gamma(g)
    return _classic("gamma", favour, favour, None, 1e-6, batch_norm)


@COMPOSITES.register("epsilon-plus-flat")
def epsilon_plus_flat(eps: float = 1e-6, batch_norm: BatchNorm = "pass") -> Composite:
    """z⁺ at convolutions, ε at linear layers, flat at the first (Kohlbrenner et al. 2020); z⁺ counts positive bias."""
    return _classic("epsilon-plus-flat", rules.z_plus_bias(eps), rules.epsilon(eps), rules.flat, eps, batch_norm)


@COMPOSITES.register("epsilon-gamma-box")
def epsilon_gamma_box(
    low: float | Tensor = -3.0,
    high: float | Tensor = 3.0,
    g: float = 0.25,
    eps: float = 1e-6,
    batch_norm: BatchNorm = "pass",
) -> Composite:
    """γ at convolutions, ε at linear layers, zᴮ at the first (Montavon et al. 2019).

    Args:
        low, high: the range of the network's input, in its own normalised units.
        g: γ of the convolutions.
        eps: ε of the linear layers.
        batch_norm: "pass" or "fold".
    """
    return _classic("epsilon-gamma-box", rules.gamma(g), rules.epsilon(eps), rules.z_box(low, high), eps, batch_norm)


@COMPOSITES.register("epsilon-alpha2-beta1-flat")
def epsilon_alpha2_beta1_flat(eps: float = 1e-6, batch_norm: BatchNorm = "pass") -> Composite:
    """α2β1 at convolutions, ε at linear layers, flat at the first (Lapuschkin et al. 2017)."""
    return _classic(
        "epsilon-alpha2-beta1-flat", rules.alpha_beta(2, 1), rules.epsilon(eps), rules.flat, eps, batch_norm
    )


@COMPOSITES.register("transformer")
def transformer(
    attention: Literal["values", "attnlrp"] = "values",
    gate: float = 0.0,
    split: SplitName | Split = "ratio",
    identity: bool = True,
    first: Literal["ones", "image"] = "ones",
) -> Composite:
    """The paper's rules with what transformers need: z⁺ at linear layers, Relevance Splitting at joins.

    Layer norm, GELU and scales pass relevance on, as batch norm and ReLU do in the paper (the identity rule of AttnLRP,
    Achtibat et al. 2024, arXiv 2402.05602, section 3.3). Attention is an average of its values, its weights constants
    (Ali et al. 2022, arXiv 2202.07304).

    Args:
        attention: "values", which conserves, or "attnlrp": queries and keys get their part, and softmax absorbs.
        gate: the share of a product's gate, 0 to 1; see `relprop.core.rules.product`.
        split, identity, first: as of `paper`.
    """
    _require_choice("attention", attention, ("values", "attnlrp"))
    own: dict[str, rules.Rule] = {"mul": rules.product(gate), "div": rules.product(gate)} if gate else {}
    own |= _attnlrp() if attention == "attnlrp" else {}
    return replace(paper(split=split, identity=identity, first=first), name="transformer", rules=own)


@COMPOSITES.register("attnlrp")
def attnlrp(eps: float = 1e-6) -> Composite:
    """AttnLRP (Achtibat et al. 2024, arXiv 2402.05602): ε at weighted layers and joins, products in equal shares.

    Signed; ε, bias and softmax absorb. For image transformers the authors take γ at weighted layers.
    """
    stable = rules.epsilon(eps)
    base = _classic("attnlrp", stable, stable, None, eps, "pass")
    return replace(base, rules={**base.rules, **_attnlrp(eps), "mul": rules.product(0.5)})


def _attnlrp(eps: float = 1e-6) -> dict[str, rules.Rule]:
    return {
        **dict.fromkeys(("softmax", "_safe_softmax"), rules.softmax_rule()),
        **dict.fromkeys(("matmul", "bmm", "mm", "einsum"), rules.matmul_rule(eps)),
        "scaled_dot_product_attention": rules.attention_attnlrp(eps),
    }


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        name: for the reader.
        composite: makes the rules that it takes.
        source: what these add to the paper's, and whence.
    """

    name: str
    composite: Callable[[], Composite]
    source: str


TRANSFORMER = Family(
    "transformer",
    transformer,
    "attention weights taken as constants (Ali et al. 2022), layer norm passes (Achtibat et al. 2024)",
)
GATED = Family("gated network", paper, "gates take nothing, their signal all (Arras et al. 2017)")
CONVOLUTIONAL = Family("convolutional network", paper, "the paper's own (Otsuki et al. 2024)")

#: all of these conserve; `attnlrp()` is there for comparison: it is signed, and absorbs at every softmax and bias
FAMILIES = (TRANSFORMER, GATED, CONVOLUTIONAL)


def family_of(graph: Graph) -> Family:
    """The family of a network: by its attention, else by its products; anything else is convolutional."""
    several = {node.op for node in graph.steps if len(node.inputs) > 1}
    if "scaled_dot_product_attention" in several or several & {"matmul", "bmm", "einsum"}:
        return TRANSFORMER
    return GATED if several & {"mul", "div", "gated"} else CONVOLUTIONAL
