"""What is derived from weights alone (W+, folded batch norms, packed layouts), kept while they are the same."""

from __future__ import annotations

import ctypes
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from relprop.core.graph.convolution import ConvGeometry
from relprop.core.weights.packed import LIGHT, Packed, pack_forward, pack_transpose, packs

Made = TypeVar("Made")
Key = tuple[str, str]

#: sizes of input for which what depends on the size is kept; the least recently used goes
SIZES = 2

_SMALL = 1 << 16  # numbers; so many are compared with a copy of them, more by sums
_ROW = 4096
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class Derived:
    """A weight made from others (W+, W with a batch norm folded in), when somebody needs its numbers.

    Packed, it need not be kept itself: a network's weights are held once for each use, and not once more.

    Attributes:
        name: what it is to its step.
        sources: the tensors that it is made from.
        make: computes it.
        like: a tensor of its shape, type and device; the values mean nothing.
    """

    name: str
    sources: tuple[Tensor, ...]
    make: Callable[[], Tensor]
    like: Tensor

    def then(self, name: str, function: Callable[[Tensor], Tensor]) -> Derived:
        """What a function makes of it, in the same shape."""
        return Derived(f"{name} of {self.name}", self.sources, lambda: function(self.make()), self.like)


Weight = Tensor | Derived


@dataclass(frozen=True, eq=False, slots=True)
class _Entry:
    """Something that was made of weights: of which, as they were when (`marks`), and for which input size."""

    made: Any
    marks: tuple[int, ...]
    sources: tuple[weakref.ref[Tensor], ...]
    size: Any


class Store:
    """What was made of a model's weights, shared by all runs and threads of one `LRP`.

    `grown` says whether inputs of a new size were run since somebody last looked.
    """

    def __init__(self) -> None:
        self.entries: dict[Key, _Entry] = {}
        self.keys: dict[int, Key] = {}
        self.prints: dict[int, tuple[weakref.ref[Tensor], Any, int]] = {}
        self.sizes: OrderedDict[Any, None] = OrderedDict()
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        self.grown = False

    def use(self, size: Any) -> None:
        """Take note that inputs of a size are run, and forget what is for others, and for weights that are gone."""
        with self.lock:
            self.grown = self.grown or size not in self.sizes
            self.sizes[size] = None
            self.sizes.move_to_end(size)
            while len(self.sizes) > SIZES:
                gone, _ = self.sizes.popitem(last=False)
                for key in [key for key, entry in [*self.entries.items()] if entry.size == gone]:
                    self.forget(key)
            for identity, (source, *_) in [*self.prints.items()]:
                if source() is None:
                    self.prints.pop(identity, None)

    def forget(self, key: Key) -> None:
        """Let go of what is kept under a key."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.keys.pop(id(entry.made), None)


@dataclass(eq=False)
class Prepared:
    """The store as one run sees it: each weight is compared once with what it was.

    A weight of up to 65,536 numbers is compared with a copy. A larger one is known by sums over all of it: of its bits,
    which any single change alters, and of its numbers times fixed random ones, which depend on sign and place; two to
    four percent of the time at one image. So a weight that is changed by any means (an optimiser, `load_state_dict`,
    `weight.data`, numpy) is used as it is.

    Attributes:
        channels_last: whether images and what is made take that memory format, and convolutions are packed. For CPUs.
        bf16: whether products that need not be exact are taken in bfloat16.
        differentiable: whether results of a run are differentiable with respect to weights; then nothing is packed, and
            nothing kept, since what autograd records serves one run.
        size: of the inputs of this run.
        store: what is kept between runs.
    """

    channels_last: bool = False
    bf16: bool = False
    differentiable: bool = False
    size: Any = None
    store: Store = field(default_factory=Store)
    _checked: dict[int, int] = field(default_factory=dict)

    def for_run(self, tensors: Sequence[Tensor]) -> Prepared:
        """The same store for one run on inputs of these sizes."""
        size = tuple(tuple(tensor.shape[1:]) for tensor in tensors)
        self.store.use(size)
        differentiable = self.differentiable and torch.is_grad_enabled()
        images = any(tensor.dim() == 4 for tensor in tensors)
        packs = images and tensors[0].device.type == "cpu" and tensors[0].dtype == torch.float32
        channels_last = packs and not differentiable
        return replace(self, channels_last=channels_last, differentiable=differentiable, size=size, _checked={})

    def get(
        self, owner: str, name: str, sources: tuple[Tensor, ...], make: Callable[[], Made], *, sized: bool = False
    ) -> Made:
        """Return `make()`, from memory if the tensors it was made from are what they were.

        Args:
            owner: name of the weight that it belongs to.
            name: what it is to that weight.
            sources: what it is made from.
            make: makes it.
            sized: whether it serves inputs of this run's size alone.
        """
        if self.differentiable:
            return make()
        marks = tuple(map(self._mark, sources))
        key = self.key(owner, name, sized=sized)
        known = self.store.entries.get(key)
        if known is None or known.marks != marks:
            weak = tuple(map(weakref.ref, sources))
            known = _Entry(self._laid_out(make()), marks, weak, self.size if sized else None)
            self.store.forget(key)
            self.store.entries[key] = known
            self.store.keys[id(known.made)] = key
        made: Made = known.made
        return made

    def key(self, owner: str, name: str, *, sized: bool) -> Key:
        """Under what something is kept: `owner`, and what it is to it in this memory format, for this size."""
        return owner, f"{name}{', channels last' if self.channels_last else ''}{f', {self.size}' if sized else ''}"

    def _mark(self, source: Tensor) -> int:
        """A number that stays for as long as a tensor's numbers do."""
        identity = id(source)
        mark = self._checked.get(identity)
        if mark is None:
            known = self.store.prints.get(identity)
            if known is not None and known[0]() is source and _is_as(source, known[1]):
                mark = known[2]
            else:
                mark = next(self.store.numbers)
                self.store.prints[identity] = (weakref.ref(source), _print_of(source), mark)
            self._checked[identity] = mark
        return mark

    def is_current(self, key: Key) -> bool:
        """Whether what is kept under a key is of the weights as they are."""
        entry = self.store.entries.get(key)
        sources = () if entry is None else [source() for source in entry.sources]
        return entry is not None and all(
            source is not None and self._mark(source) == mark for source, mark in zip(sources, entry.marks, strict=True)
        )

    def derived(self, weight: Weight) -> Derived:
        """A weight as such, the model's own or one that was made by `numbers`; or a derived one."""
        if isinstance(weight, Derived):
            return weight
        key = self.store.keys.get(id(weight))
        entry = None if key is None else self.store.entries.get(key)
        if key is None or entry is None or entry.made is not weight:
            return Derived("weight", (weight,), lambda: weight, weight)
        sources = tuple(source for ref in entry.sources if (source := ref()) is not None)
        return Derived(key[1], sources, lambda: weight, weight)

    def forward(
        self,
        owner: str,
        geometry: ConvGeometry,
        value: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        *,
        exact: bool = False,
    ) -> Tensor:
        """W h + b of a convolution; packed, unless it cannot be."""
        if self._narrows(value) and not exact:
            return self.forward(owner, geometry, value.bfloat16(), self._narrow(weight), bias).to(value.dtype)
        if not (self.channels_last and packs(geometry, value, like(weight))):
            computed = geometry.forward(value, self.numbers(owner, weight))
            return computed if bias is None else computed + bias.reshape(1, -1, *[1] * (computed.dim() - 2))
        form = f"{_for(value.shape)} {geometry.text}"
        packed = self._packed(owner, weight, form, lambda w: pack_forward(geometry, w, value.shape))
        return packed.forward(value, bias)

    def transpose(self, owner: str, geometry: ConvGeometry, value: Tensor, weight: Weight, goal: Tensor) -> Tensor:
        """Wᵀ s of such a convolution, in the shape of `goal`, whose values are not read."""
        if self._narrows(value):
            narrow = self._narrow(weight)
            goal = narrow.like.new_empty(1).expand(goal.shape)
            return self.transpose(owner, geometry, value.bfloat16(), narrow, goal).to(value.dtype)
        if not (self.channels_last and packs(geometry, value, like(weight), inward=False)):
            return geometry.transpose(value, self.numbers(owner, weight), goal)
        outward, form = tuple(goal.shape[2:]), f"transpose {_for(goal.shape)} {geometry.text}"
        packed = self._packed(owner, weight, form, lambda w: pack_transpose(geometry, w, value.shape, outward))
        return packed.transpose(value, outward)

    def _packed(self, owner: str, weight: Weight, form: str, pack: Callable[[Tensor], Packed]) -> Packed:
        made = self.derived(weight)
        return self.get(owner, f"{made.name}, {form}", made.sources, lambda: pack(self._laid_out(made.make())))

    def numbers(self, owner: str, weight: Weight) -> Tensor:
        """The numbers of a weight; of one that is derived, kept."""
        if isinstance(weight, Tensor):
            return weight
        return self.get(owner, weight.name, weight.sources, weight.make)

    def _narrows(self, value: Tensor) -> bool:
        return self.bf16 and value.dtype == torch.float32

    def _narrow(self, weight: Weight) -> Derived:
        made = self.derived(weight)
        narrow = made.then("bf16", Tensor.bfloat16)
        return replace(narrow, like=made.like.new_empty(1, dtype=torch.bfloat16).expand(made.like.shape))

    def tensors(self) -> dict[Key, Tensor]:
        """What was made of weights, by its key; packed weights apart."""
        kept = [*self.store.entries.items()]
        return {key: entry.made for key, entry in kept if entry.sources and isinstance(entry.made, Tensor)}

    def packed(self, key: Key) -> Packed | None:
        """The packed weight of a key, if there is one."""
        entry = self.store.entries.get(key)
        return entry.made if entry is not None and isinstance(entry.made, Packed) else None

    def _laid_out(self, made: Made) -> Made:
        if self.channels_last and isinstance(made, Tensor) and made.dim() == 4:
            return made.contiguous(memory_format=torch.channels_last)  # type: ignore[return-value]
        return made


def _for(size: torch.Size) -> str:
    """What inputs of a size need another form of a convolution than others do."""
    return "one small image" if size[0] == 1 and size.numel() <= LIGHT else "packed"


def like(weight: Weight) -> Tensor:
    """A tensor of a weight's shape, type and device."""
    return weight.like if isinstance(weight, Derived) else weight


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _print_of(weight: Tensor) -> Any:
    """What a weight is known by: a copy of a small one, sums over a large one."""
    if weight.numel() <= _SMALL or not weight.is_floating_point():
        return weight.detach().clone()
    return _sums(weight)


def _is_as(weight: Tensor, known: Any) -> bool:
    """Whether a weight is still what `_print_of` it was, to the bit."""
    if isinstance(known, Tensor):
        form = (known.shape, known.dtype, known.device) == (weight.shape, weight.dtype, weight.device)
        return form and _same(weight, known)
    shape, words, products = _sums(weight)
    return bool(known[0] == shape and torch.equal(known[1], words) and _same(known[2], products))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal bit by bit, of one shape and type: a NaN is equal to itself, and zero not to its negative."""
    if _memcmp is not None and ours.device.type == "cpu" and ours.is_contiguous() and theirs.is_contiguous():
        return not _memcmp(ours.data_ptr(), theirs.data_ptr(), ours.nbytes)
    word = _WORDS[ours.element_size()]
    return torch.equal(ours.view(word), theirs.view(word))


def _compare_memory() -> Callable[[int, int, int], int] | None:
    """The C library's `memcmp`, ten times as fast as `torch.equal`; None where it is not found."""
    try:
        function = ctypes.CDLL(None).memcmp
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return cast("Callable[[int, int, int], int]", function)


_memcmp = _compare_memory()


def _sums(weight: Tensor) -> tuple[Any, Tensor, Tensor]:
    dense = weight.detach()
    flat = dense.as_strided((dense.numel(),), (1,)) if _is_dense(dense) else dense.flatten()
    word = _WORDS[flat.element_size()]
    random = _random(flat.dtype, flat.device)
    words, products = [], []
    for block in torch.split(flat, _BLOCK):  # which the processor's cache still holds when it is read again
        count, rest = divmod(block.numel(), _ROW)
        words.append(block.view(word).sum(dtype=word))
        if count:
            products.append((block[: count * _ROW] if rest else block).view(count, _ROW) @ random)
        if rest:
            products.append((block[count * _ROW :] @ random[:rest])[None])
    shape = (tuple(dense.shape), dense.stride(), dense.dtype, dense.device)
    return shape, torch.stack(words), torch.cat(products)


def _is_dense(weight: Tensor) -> bool:
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return weight.is_contiguous() or last


@cache
def _random(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Fixed numbers, of which no two are alike."""
    return torch.randn(_ROW, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)
