"""Record one run of a model, call by call, where its code cannot be read without data.

Python that branches on the values of tensors, and TorchScript, cannot be exported. But each run of them comes down to a
sequence of ATen calls, which torch's dispatcher hands to a mode on their way. Below autograd these are the calls that
`torch.export` keeps too (`conv2d`, `batch_norm`, `linear`, ...), so the rules know them.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from relprop.core.graph import Ref, State
from relprop.core.outputs import scores_in
from relprop.core.scripted import Places, Scopes
from relprop.core.tape import Call, Tape

aten = torch.ops.aten


def record(model: nn.Module, image: Tensor) -> Tape:
    """Run a model once, and write down what it calls.

    Args:
        model: a module, TorchScript or Python, in evaluation mode.
        image: (N, ...) real data: the calls may depend on it.
    """
    recorder = _Recorder(model, image)
    with _quiet_attention(), torch.no_grad(), recorder.watching(), torch._C._AutoDispatchBelowAutograd(), recorder:
        scores = scores_in(model(image))
    output = recorder.leaf(scores)
    at = output.index if isinstance(output, Ref) else -1
    return Tape(tuple(recorder.calls), at, len(image), recorder.constants, scores.detach())


def record_for_any_batch(model: nn.Module, image: Tensor, tape: Tape) -> Tape:
    """A tape for batches of any size, if the run of `image` is one of those; else the tape itself."""
    with contextlib.suppress(Exception):  # whatever a model says of a batch of another size
        return tape.for_any_batch(record(model, torch.cat([image, image])))
    return tape


@contextlib.contextmanager
def _quiet_attention() -> Iterator[None]:
    """Attention as plain steps: its fused form, for inference alone, has no rule."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(eq=False)
class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each call, on its way to where it is computed."""

    model: nn.Module
    image: Tensor
    calls: list[Call] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakTensorKeyDictionary()
        self._alive: list[Tensor] = []  # a constant's address must not be given to another
        self._count = 0
        for name, tensor in (*self.model.named_buffers(), *self.model.named_parameters()):
            self._known[tensor] = State(name)
        self._known[self.image] = self._next()
        self._paths = {id(module): path for path, module in [*self.model.named_modules(remove_duplicate=False)][::-1]}
        self._runs: Counter[str] = Counter()
        self._scopes: list[tuple[str, str]] = []
        self._places: list[Places] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a call, and write it down."""
        kwargs = kwargs or {}
        if func is aten._native_multi_head_attention.default:  # scripted attention takes it by itself
            with self:
                return _attention(*args, **kwargs)
        if func is aten.equal.default:  # traced sizes arrive as numbers, which it does not take
            return torch.equal(*map(torch.as_tensor, args))
        if func is aten.item.default and not isinstance(args[0], Tensor):  # likewise, before TorchScript has warmed up
            return args[0]
        func, args, kwargs = _plain(func, args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        named = tuple(self.leaf(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if func._schema.is_mutable:
            for leaf in named:
                if isinstance(leaf, State) and leaf.name in self.constants:
                    self.constants[leaf.name] = self.constants[leaf.name].clone()  # as it was before
        result = func(*args, **kwargs)
        tensors = [part for part in tree_leaves(result) if isinstance(part, Tensor)]
        by_data = torch.Tag.dynamic_output_shape in func.tags and not any(t.is_floating_point() for t in tensors)
        if by_data or not (tensors or func._schema.is_mutable):
            return result  # a place or number that Python goes on with: a constant of this run
        results = tuple(self._result(tensor) for tensor in tensors)
        self.calls.append(Call(func, named, spec, results, self._scopes_of(func, named), _line()))
        return result

    def leaf(self, tensor: Tensor) -> Ref | State:
        """What a tensor is to the run: a value, a weight, or else a constant."""
        known: Ref | State | None = self._known.get(tensor)
        if known is None:
            known = State(f"constant_{len(self.constants)}", learned=False)
            self.constants[known.name] = tensor.detach()
            self._alive.append(tensor)
            self._known[tensor] = known
        return known

    def _result(self, tensor: Tensor) -> int:
        known = self._known.get(tensor)  # an in-place call returns what it was given
        if not isinstance(known, Ref):
            known = self._known[tensor] = self._next()
        return known.index

    def _next(self) -> Ref:
        self._count += 1
        return Ref(self._count - 1)

    def _scopes_of(self, func: Any, leaves: tuple[Any, ...]) -> Scopes:
        """The modules around a call. Of a scripted one, whose modules run unseen, the owner of the weights at most."""
        if not self._places:
            return tuple(self._scopes)
        inner = self._places[-1].next(func._schema.name)
        if inner:
            outer = self._scopes[-1][1]
            return (
                *self._scopes,
                *((f"{outer}/{call}", ".".join(filter(None, (outer, path)))) for call, path in inner),
            )
        names = [leaf.name for leaf in leaves if isinstance(leaf, State) and leaf.learned and "." in leaf.name]
        owner = names[0].rpartition(".")[0] if names else ""
        return (*self._scopes, (f"{owner}@{names[0]}", owner)) if owner else tuple(self._scopes)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Know which of the model's modules runs; in this thread, and without a hook on the model itself."""
        thread = threading.get_ident()

        def enter(module: nn.Module, _: Any) -> None:
            if threading.get_ident() == thread and id(module) in self._paths:
                path = self._paths[id(module)]
                self._scopes.append((f"{path}@{self._runs[path]}", path))
                self._runs[path] += 1
                if isinstance(module, torch.jit.ScriptModule):
                    self._places.append(Places(module))

        def leave(module: nn.Module, *_: Any) -> None:
            if threading.get_ident() == thread and id(module) in self._paths:
                self._scopes.pop()
                if isinstance(module, torch.jit.ScriptModule):
                    self._places.pop()

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _plain(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The same call as operations whose shapes are known without data, and that rules know."""
    if func is aten.masked_select.default:
        value, mask = torch.broadcast_tensors(*args)  # type: ignore[no-untyped-call]
        return aten.index.Tensor, (value, [*mask.nonzero().unbind(1)]), {}
    if func._schema.name.startswith("aten::index") or func._schema.name.startswith("aten::_index"):
        return func, _without_masks(args), kwargs
    return func, args, kwargs


def _without_masks(args: Any) -> Any:
    """Indices by mask as the places where it is true."""
    if len(args) < 2 or not isinstance(args[1], list | tuple):
        return args
    places: list[Tensor | None] = []
    for index in args[1]:
        masks = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        places += [*index.nonzero().unbind(1)] if masks else [index]
    return (args[0], places, *args[2:])


def _attention(
    query: Tensor, key: Tensor, value: Tensor, dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor,
    weight: Tensor, bias: Tensor, mask: Tensor | None = None, need_weights: bool = True, *_: Any, **__: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Multi-head attention without its weights, by the operations that it is made of."""
    if mask is not None or need_weights:
        raise RuntimeError("fused attention with a mask, or whose weights are read, cannot be recorded")
    parts = zip((query, key, value), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True)
    q, k, v = (F.linear(x, w, b).view(*x.shape[:-1], heads, -1).transpose(1, 2) for x, w, b in parts)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return F.linear(mixed, weight, bias), None


def _line() -> str:
    """The innermost line of Python that is neither torch's nor ours, as a traceback prints it; "" if there is none."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code is not record.__code__:
        file = frame.f_code.co_filename.replace("\\", "/")
        if "/torch/" not in file and file[:1] != "<":
            text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            return f'File "{file}", line {frame.f_lineno}, in {frame.f_code.co_name}\n    {text}'
        frame = frame.f_back
    return ""
