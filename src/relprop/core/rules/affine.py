"""Rules for weighted sums, y_j = Σ_i w_ji h_i + b_j: convolution, transposed convolution and linear layers.

z_ij = w_ji h_i is what input i contributes to output j. Each rule shares R_j among the inputs i by some share of
these contributions; the docstrings give it. No rule here uses autograd: the transpose is called as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.graph.convolution import conv_geometry
from relprop.core.graph.graph import Node, State
from relprop.core.rules.rule import Rule, Step, is_fake, rule
from relprop.core.weights.prepared import Derived, Weight
from relprop.errors import InputError


@dataclass(frozen=True)
class Affine:
    """A weighted sum, as two functions of weight and value.

    Attributes:
        weight: in the layout that `forward` and `transpose` take.
        bias: one number an output channel, shaped to broadcast on the output; or None.
        forward: (value, weight) -> W h.
        transpose: (value, weight) -> Wᵀ s, in the shape of the input.
        spread: value -> the transpose with all weights one, over in-bounds inputs that depend on the image.
        count: number of inputs that `spread` sends each output to, shaped to broadcast on the output.
        text: its geometry, in a few letters.
    """

    weight: Tensor
    bias: Tensor | None
    forward: Callable[[Tensor, Weight], Tensor]
    transpose: Callable[[Tensor, Weight], Tensor]
    spread: Callable[[Tensor], Tensor]
    count: Callable[[], Tensor]
    text: str = ""


def affine(step: Step) -> Affine:
    """Read a step as a weighted sum, with the batch norm that is folded into it if there is one."""
    return _linear(step) if step.node.op == "linear" else _conv(step)


def _conv(step: Step) -> Affine:
    geometry = conv_geometry(step.node.call, step.args)
    weight, bias = step.args[1], step.args[2] if len(step.args) > 2 else None
    dims = weight.dim() - 2
    shape = step.shapes[0]
    like = step.inputs[0] if step.inputs[0] is not None else weight.new_empty(1).expand(shape)

    owner, prepared = weight_name(step), step.prepared

    def forward(value: Tensor, w: Weight) -> Tensor:
        if isinstance(w, Tensor) and not owner:
            return geometry.forward(value, w)
        return prepared.forward(owner, geometry, value, w)

    def transpose(value: Tensor, w: Weight) -> Tensor:
        if isinstance(w, Tensor) and not owner:
            return geometry.transpose(value, w, like)
        return prepared.transpose(owner, geometry, value, w, like)

    support = step.supports[0]
    sources = (weight,) if support is None else (weight, support)

    def once(name: str, make: Callable[[], Tensor]) -> Tensor:
        if not owner or any(map(is_fake, sources[1:])):
            return make()
        return prepared.get(owner, f"{name}{tuple(shape[1:])} {geometry.text}", sources, make, sized=True)

    def mask() -> Tensor | None:
        return None if support is None else once("mask", lambda: support.to(weight))

    def count() -> Tensor:
        there = mask()
        counts = geometry.count(weight.new_ones((1, *shape[1:])) if there is None else there)
        return counts.repeat_interleave(geometry.outputs_per_group, 1)

    def spread(value: Tensor) -> Tensor:
        if not owner or prepared.bf16 or is_fake(value):
            return geometry.spread(value, shape[2:], mask())
        ones: Tensor = prepared.get(owner, "kernel of ones", (weight,), lambda: geometry.kernel_of_ones(weight))
        single = geometry.one_channel_a_group
        narrow = value.new_empty(1).expand(value.shape[0], geometry.groups, *shape[2:])
        transpose_ones = partial(prepared.transpose, f"{owner}, ones", single, weight=ones, goal=narrow)
        return geometry.spread(value, shape[2:], mask(), transpose_ones)

    return Affine(
        weight,
        None if bias is None else bias.reshape(1, -1, *[1] * dims),
        forward,
        transpose,
        spread,
        lambda: once("count", count),
        geometry.text,
    )


def _linear(step: Step) -> Affine:
    transposed = step.node.call._schema.name == "aten::addmm"  # type: ignore[attr-defined]
    if transposed:
        bias, _, weight = step.args[:3]
        weight = weight.t()
    else:
        weight, bias = step.args[1], step.args[2] if len(step.args) > 2 else None
    support = step.supports[0]
    shape = step.shapes[0]

    def numbers(w: Weight) -> Tensor:
        return w if isinstance(w, Tensor) else step.prepared.numbers(weight_name(step), w)

    def mask() -> Tensor:
        return weight.new_ones((1, *shape[1:])) if support is None else support.to(weight)

    return Affine(
        weight,
        bias,
        lambda value, w: F.linear(value, numbers(w)),
        lambda value, w: value @ numbers(w),
        lambda value: value.sum(-1, keepdim=True) * mask(),
        lambda: mask().sum(-1, keepdim=True),
    )


def quotient(relevance: Tensor, z: Tensor, *, spare: bool = False) -> tuple[Tensor, Tensor | None]:
    """R / z where something excites the output; and the relevance of the dead outputs, None if there is none.

    `spare` says that nobody else reads z, so that the quotient may be written over it. Dead means z at or below the
    smallest normal number: dividing by less would overflow. Both that and a negative zero of rounding are dead. Needs
    z >= 0 up to rounding.
    """
    tiny = torch.finfo(z.dtype).tiny
    if not z.numel():
        return relevance, None  # of no image, as of an expert that none is sent to
    if not is_fake(z) and z.amin().item() > tiny:  # several times cheaper than asking whether any is not above it
        kept = not spare or z.requires_grad or relevance.requires_grad
        return (relevance / z if kept else torch.div(relevance, z, out=z)), None
    dead = torch.where(z > tiny, 0, relevance)
    # one after the other, since aminmax copies what is not in row-major order, as channels-last maps are not
    return relevance / F.threshold(z, tiny, torch.inf), dead if is_fake(z) or dead.amin() or dead.amax() else None


def _with_dead(layer: Affine, shared: Tensor, dead: Tensor | None) -> Tensor:
    """Add to `shared`, in place, what dead outputs share evenly over their in-bounds receptive fields."""
    return shared if dead is None else shared.add_(evenly(layer, dead))


def evenly(layer: Affine, relevance: Tensor) -> Tensor:
    """Each output shares evenly over its in-bounds receptive field; one that sees padding alone sends nothing."""
    return layer.spread(relevance / layer.count().clamp(min=1))


def part(step: Step, weight: Tensor, name: str) -> Weight:
    """W+ ("plus"), W- ("minus") or W² ("square"), made once for each weight of the model."""
    function = _PARTS[name]
    return step.prepared.derived(weight).then(name, function) if weight_name(step) else function(weight)


_PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plus": partial(torch.clamp, min=0),
    "minus": partial(torch.clamp, max=0),
    "square": torch.square,
}


#: (h, W of its positive contributions, W of its negative ones) for each part h of the input
Contributions = list[tuple[Tensor, Weight, Weight]]


def contributions(step: Step, layer: Affine) -> Contributions:
    """Of the input's positive part, and of its negative part if it can have one."""
    plus, minus = part(step, layer.weight, "plus"), part(step, layer.weight, "minus")
    if step.nonnegative[0]:
        return [(step.input, plus, minus)]
    return [(step.input.clamp(min=0), plus, minus), (step.input.clamp(max=0), minus, plus)]


def total(parts: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    return reduce(Tensor.add, parts)


def weight_name(step: Step) -> str:
    """Name of the weight of a step, under which what is made of it is kept.

    "" of one that the model computes at each call, of which nothing can be kept.
    """
    weight = step.node.args[weight_place(step.node)]
    return weight.name if isinstance(weight, State) and weight.kept else ""


def weight_place(node: Node) -> int:
    """Position of the weight among a step's arguments."""
    return 2 if node.call._schema.name == "aten::addmm" else 1  # type: ignore[attr-defined]


@rule("conv", "conv_transpose", "linear", name="z+")
def z_plus(step: Step, relevance: Tensor) -> Tensor:
    """Share by positive contribution (z⁺-rule, Eq. 2 and 3).

        R_i = Σ_j max(0, z_ij) / Σ_k max(0, z_kj) · R_j

    Maps (N, *out) to (N, *in) and keeps each sample's sum. Bias takes no part. For inputs that are nowhere
    negative this is h_i Σ_j w⁺_ji R_j / Σ_k w⁺_jk h_k. An output that nothing positive excites (it fires through
    the batch-norm shift alone) shares evenly over its in-bounds receptive field.
    """
    layer = affine(step)
    plus = part(step, layer.weight, "plus")
    if step.nonnegative[0]:
        divided, dead = quotient(relevance, layer.forward(step.input, plus), spare=True)
        return _with_dead(layer, layer.transpose(divided, plus).mul_(step.input), dead)
    minus = part(step, layer.weight, "minus")
    above, below = step.input.clamp(min=0), step.input.clamp(max=0)
    divided, dead = quotient(relevance, layer.forward(above, plus).add_(layer.forward(below, minus)))
    shared = layer.transpose(divided, plus).mul_(above).addcmul_(below, layer.transpose(divided, minus))
    return _with_dead(layer, shared, dead)


@rule(name="z+ (ones)", reads=())
def z_plus_ones(step: Step, relevance: Tensor) -> Tensor:
    """The z⁺-rule with every input taken as one, so that the image does not enter (the release's first layer).

    R_i = Σ_j w⁺_ji / Σ_k w⁺_jk · R_j, over in-bounds k.
    """
    return _share_by_weight(step, relevance, "plus")


@rule(name="w²", reads=())
def w_square(step: Step, relevance: Tensor) -> Tensor:
    """Share by squared weight (Montavon et al. 2017, Eq. 9): R_i = Σ_j w²_ji / Σ_k w²_jk · R_j, over in-bounds k."""
    return _share_by_weight(step, relevance, "square")


def _share_by_weight(step: Step, relevance: Tensor, name: str) -> Tensor:
    """Share by W+ or W² alone; the denominators are made once for each weight and size of input."""
    layer = affine(step)
    weight, ones = part(step, layer.weight, name), _ones(step, layer.weight)
    z_of_ones = partial(layer.forward, ones, weight)
    if isinstance(weight, Derived):
        key = f"z of ones {tuple(step.shapes[0][1:])} {layer.text}, {weight.name}"
        support = step.supports[0]
        sources = weight.sources if support is None else (*weight.sources, support)
        z = step.prepared.get(weight_name(step), key, sources, z_of_ones, sized=True)
    else:
        z = z_of_ones()
    divided, dead = quotient(relevance, z)
    return _with_dead(layer, ones * layer.transpose(divided, weight), dead)


def _ones(step: Step, weight: Tensor) -> Tensor:
    """An input of ones (1, *in), zero where the image does not reach."""
    support = step.supports[0]
    return weight.new_ones((1, *step.shapes[0][1:])) if support is None else support.to(weight)


@rule(name="flat", reads=())
def flat(step: Step, relevance: Tensor) -> Tensor:
    """Share evenly over the in-bounds receptive field (Lapuschkin et al. 2017): R_i = Σ_j R_j / #inputs of j."""
    return evenly(affine(step), relevance)


def epsilon(eps: float = 1e-6, *, bias: bool = True) -> Rule:
    """Share by contribution, with a stabilised denominator (ε-rule, Bach et al. 2015, Eq. 58).

        R_i = Σ_j z_ij / (z_j + ε sign(z_j)) · R_j,   z_j = Σ_k z_kj + b_j,   sign(0) = 1

    Absorbs the shares of ε and, unless `bias` is false, of the bias. ε = 0 is LRP-0.
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        z = layer.forward(step.input, layer.weight)
        if bias and layer.bias is not None:
            z = z + layer.bias
        return step.input * layer.transpose(stabilised_quotient(relevance, z, eps), layer.weight)

    return Rule(f"ε={eps:g}" if eps else "0", share, conserves=False, positive=False)


def stabilised_quotient(relevance: Tensor, z: Tensor, eps: float) -> Tensor:
    """R / (z + ε sign z); zero where z is zero and ε is."""
    stable = torch.where(z >= 0, z + eps, z - eps)  # where() of two plain numbers would round ε to float32
    tiny = torch.finfo(z.dtype).tiny
    return relevance / torch.where(stable.abs() > tiny, stable, torch.inf)  # by zero, the derivative would be NaN


def z_plus_epsilon(eps: float = 1e-5, *, ones: bool = False) -> Rule:
    """The z⁺-rule as the authors released it: R_i = h_i Σ_j w⁺_ji R_j / (Σ_k w⁺_jk h_k + ε), h = 1 if `ones`.

    ε is unsigned and absorbs relevance; where W⁺ h of a negative input cancels it, relevance explodes.
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        plus = part(step, layer.weight, "plus")
        value = _ones(step, layer.weight) if ones else step.input
        return value * layer.transpose(relevance / (layer.forward(value, plus) + eps), plus)

    reads: frozenset[str] = frozenset() if ones else frozenset({"inputs"})
    name = f"z+ {'(ones) ' if ones else ''}ε={eps:g}"
    return Rule(name, share, reads, conserves=False, positive=ones)  # type: ignore[arg-type]


def z_plus_bias(eps: float = 1e-6) -> Rule:
    """The z⁺-rule with the positive part of the bias as one more contribution, which absorbs (zennit's ZPlus).

    R_i = Σ_j max(0, z_ij) / (Σ_k max(0, z_kj) + max(0, b_j) + ε) · R_j
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        parts = contributions(step, layer)
        z = total(layer.forward(h, same) for h, same, _ in parts) + eps
        if layer.bias is not None:
            z = z + layer.bias.clamp(min=0)
        divided = relevance / z.masked_fill(z == 0, torch.inf)
        return total(h * layer.transpose(divided, same) for h, same, _ in parts)

    return Rule("z+ with bias", share, conserves=False)


def gamma(g: float = 0.25, eps: float = 1e-6, *, bias: bool = True) -> Rule:
    """Favour contributions of the output's own sign (γ-rule).

        R_i = Σ_j (z_ij + γ [z_ij]^s_j) / (Σ_k z_kj + γ [z_kj]^s_j + ε s_j) · R_j

    with s_j the sign of the output, [z]^+ = max(0, z) and [z]^- = min(0, z) (Montavon et al. 2019; for outputs of
    either sign, Andéol et al. 2021). The bias is one more contribution.
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        parts = contributions(step, layer)
        z = layer.forward(step.input, layer.weight)
        above = total(layer.forward(h, same) for h, same, _ in parts)
        below = z - above
        if bias and layer.bias is not None:
            z, above, below = z + layer.bias, above + layer.bias.clamp(min=0), below + layer.bias.clamp(max=0)
        on, off = torch.where(z > 0, relevance, 0), torch.where(z > 0, 0, relevance)
        up = stabilised_quotient(on, z + g * above, eps)
        down = stabilised_quotient(off, z + g * below, eps)
        shared = step.input * layer.transpose(up + down, layer.weight)
        for h, same, other in parts:
            shared = shared + g * h * (layer.transpose(up, same) + layer.transpose(down, other))
        return shared

    return Rule(f"γ={g:g}", share, conserves=False, positive=False)


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, eps: float = 1e-6, *, bias: bool = True) -> Rule:
    """Weigh positive against negative contributions (αβ-rule, Bach et al. 2015, Eq. 60), α - β = 1.

    R_i = Σ_j (α z⁺_ij / (Σ_k z⁺_kj + ε) - β z⁻_ij / (Σ_k z⁻_kj - ε)) · R_j

    The bias is one more contribution. Absorbs what falls on bias, on ε, and on parts that are empty.
    """
    if abs(alpha - beta - 1) > 1e-9:
        raise ValueError(f"alpha - beta must be 1, not {alpha} - {beta} = {alpha - beta}")

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        parts = contributions(step, layer)
        positive, negative = [(h, same) for h, same, _ in parts], [(h, other) for h, _, other in parts]
        shared: Tensor | float = 0.0
        for factor, sign, pairs in ((alpha, 1.0, positive), (-beta, -1.0, negative)):
            if not factor:
                continue
            z = total(layer.forward(h, w) for h, w in pairs) + sign * eps
            if bias and layer.bias is not None:
                z = z + (layer.bias * sign).clamp(min=0) * sign
            divided = factor * relevance / z.masked_fill(z == 0, torch.inf)
            shared = shared + total(h * layer.transpose(divided, w) for h, w in pairs)
        assert isinstance(shared, Tensor)
        return shared

    return Rule(f"α{alpha:g}β{beta:g}", share, conserves=False, positive=False)


def z_box(low: float | Tensor, high: float | Tensor) -> Rule:
    """For inputs in a box, such as pixels (zᴮ-rule, Montavon et al. 2017, Eq. 13).

        R_i = Σ_j (z_ij - l_i w⁺_ji - u_i w⁻_ji) / Σ_k (z_kj - l_k w⁺_jk - u_k w⁻_jk) · R_j

    Each term is nowhere negative while l <= h <= u, so it conserves; an output on which all terms are zero shares
    evenly.

    Args:
        low, high: the box in the network's own (normalised) units: numbers, or tensors that broadcast on (N, C, H, W).
    """

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        x = step.input
        l, u = (torch.as_tensor(b).to(x).expand_as(x) for b in (low, high))  # noqa: E741 - the equation's name
        if (x < l).any() or (x > u).any():
            raise InputError(
                f"z_box at {step.node.name}: the input spans {float(x.min()):.4g} to {float(x.max()):.4g}, outside the "
                "box; give the low and high that pixels can have after normalisation"
            )
        plus, minus = part(step, layer.weight, "plus"), part(step, layer.weight, "minus")
        z = layer.forward(x - l, plus) + layer.forward(x - u, minus)
        divided, dead = quotient(relevance, z)
        shared = (x - l) * layer.transpose(divided, plus) + (x - u) * layer.transpose(divided, minus)
        return _with_dead(layer, shared, dead)

    return Rule("zᴮ", share)
