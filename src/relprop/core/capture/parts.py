"""Operations that are explained as those that they are made of: fused ones, and those that torch itself takes apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from relprop.core.capture.recurrent import RECURRENT
from relprop.core.graph.ops import canonical

aten = torch.ops.aten

Parts = Callable[..., Any]


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode of torch's dispatcher that no compiler sees."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that would see to it costs as much as writing a call down, and loads the compiler."""
        return False


class NoFastPath(TorchFunctionMode):
    """Keeps `nn.TransformerEncoder` from its fast path, which is not for tensors whose functions a mode takes over."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a call as it is."""
        return func(*args, **(kwargs or {}))


def carries(result: Any) -> bool:
    """Whether relevance could go through what a call returned."""
    return isinstance(result, Tensor) and (result.is_floating_point() or result.is_complex())


def results_of(returned: Any) -> tuple[Any, ...]:
    """What a call returned, one value or several."""
    return tuple(returned) if isinstance(returned, list | tuple) else (returned,)


def parts_of(func: Any, args: Any, kwargs: Any) -> tuple[Parts, frozenset[str]] | None:
    """What torch makes an operation of (`expand_as` of `expand`), and the primitives of its own among that.

    None where it makes nothing of it, or no relevance could go through. Kept for calls that are alike.
    """
    leaves, form = tree_flatten((args, kwargs))
    seen = [(leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    key = func, str(form), *seen
    known = _PARTS.get(key, False)
    if known is False:
        known = _parts_of(func, args, kwargs)
        if len(_PARTS) >= _MOST:
            _PARTS.clear()
        _PARTS[key] = known
    return known


_PARTS: dict[Any, tuple[Parts, frozenset[str]] | Literal[False] | None] = {}
_MOST = 1024


def _parts_of(func: Any, args: Any, kwargs: Any) -> tuple[Parts, frozenset[str]] | None:
    parts = func.decompose if func._can_decompose() else torch._decomp.decomposition_table.get(func)
    if parts is None or not any(map(carries, results_of(func(*args, **kwargs)))):
        return None  # a comparison's parts, in Python, would load torch's compiler
    with _Primitives() as primitives:
        parts(*args, **kwargs)
    return parts, frozenset(primitives.names)


class _Primitives(Mode):
    """Collects the names of primitives that return numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a call."""
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prims" and any(map(carries, results_of(result))):
            self.names.append(canonical(func.name()))
        return result


def attention(
    query: Tensor, key: Tensor, value: Tensor, dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor,
    weight: Tensor, bias: Tensor, mask: Tensor | None = None, need_weights: bool = True,
    average: bool = True, mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`_native_multi_head_attention` by the operations that it is made of, which have rules: (N, T, D) -> (N, T, D)."""
    parts = zip((query, key, value), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True)
    q, k, v = (F.linear(x, w, b).view(*x.shape[:-1], heads, -1).transpose(1, 2) for x, w, b in parts)
    if mask is not None:
        mask = mask[:, None, None] if mask_type == 1 else mask
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(mask.bool(), -torch.inf)
    mixed = F.scaled_dot_product_attention(q, k, v, mask)
    result = F.linear(mixed.transpose(1, 2).flatten(2), weight, bias)
    if not need_weights:
        return result, None
    scores = q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return result, weights.mean(1) if average else weights


def encoder_layer(
    src: Tensor, dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor,
    gelu: bool, norm_first: bool, eps: float, norm_1: Tensor, shift_1: Tensor, norm_2: Tensor, shift_2: Tensor,
    weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    """`_transformer_encoder_layer_fwd` by the operations that it is made of: (N, T, D) -> (N, T, D)."""

    def attend(x: Tensor) -> Tensor:
        return attention(
            x, x, x, dim, heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, False, True, mask_type
        )[0]

    def feed(x: Tensor) -> Tensor:
        hidden = F.linear(x, weight_1, bias_1)
        return F.linear(F.gelu(hidden) if gelu else F.relu(hidden), weight_2, bias_2)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, (dim,), weight, bias, eps)

    if norm_first:
        src = src + attend(norm(src, norm_1, shift_1))
        return src + feed(norm(src, norm_2, shift_2))
    src = norm(src + attend(src), norm_1, shift_1)
    return norm(src + feed(src), norm_2, shift_2)


def variance(x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    """`var` by the operations that it is made of."""
    deviation = x - x.mean(dim, keepdim=True)
    count = x.numel() // max(deviation.sum(dim).numel(), 1)
    return deviation.square().sum(dim, keepdim=keepdim) / max(count - (1 if correction is None else correction), 0)


def scaled_sum(bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`addmm` with factors, or a bias that depends on the image, by the operations that it is made of."""
    return beta * bias + x @ (alpha * weight)  # contributions have the sign of the factor


def variance_and_mean(x: Tensor, dim: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
    """`var_mean` by the operations that it is made of."""
    return variance(x, dim, **options), x.mean(dim, keepdim=options.get("keepdim", False))


#: fused operations that are run as what they are made of
FUSED: dict[Any, Callable[..., Any]] = RECURRENT | {
    aten.var.correction: variance,
    aten.var_mean.correction: variance_and_mean,
    aten.max.default: torch.amax,
    aten.min.default: torch.amin,
    aten.addcmul.default: lambda x, first, second, value=1: x + value * (first * second),
    aten.type_as.default: lambda x, other: x.to(other.dtype),
    aten._native_multi_head_attention.default: attention,
    aten._transformer_encoder_layer_fwd.default: encoder_layer,
}
