"""What is derived from weights alone (W+, folded batch norms), kept until a weight changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from relprop.core.geometry import ConvGeometry
from relprop.core.packed import Packed, pack_pull, pack_push, packs

Made = TypeVar("Made")
Key = tuple[int, str]


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


@dataclass(eq=False)
class Prepared:
    """A cache that notices when weights change.

    A weight is known by its storage and its version, which every in-place update raises (optimisers and
    `load_state_dict` included). Writes through `weight.data` raise none; `refresh` sees those by checksums of
    all (1 to 2 % of the time at one image), and then forgets everything.

    Attributes:
        channels_last: whether what is made takes that memory format, and convolutions are packed. For CPUs.
        bf16: whether products that need not be exact are taken in bfloat16.
        generation: how often everything was forgotten.
    """

    channels_last: bool = False
    bf16: bool = False

    _kept: dict[int, dict[str, tuple[tuple[Any, ...], tuple[Tensor, ...], Any]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _print: Tensor | None = None
    generation: int = 0

    def get(self, node: int, name: str, sources: tuple[Tensor, ...], make: Callable[[], Made]) -> Made:
        """Return `make()`, from memory if the tensors it was made from are what they were."""
        stamp = tuple(_stamp(source) for source in sources)
        known = self._kept[node].get(name)
        if known is None or known[0] != stamp:
            # holding the sources keeps their addresses from being given to other weights
            known = (stamp, sources, self._laid_out(make()))
            self._kept[node][name] = known
        made: Made = known[2]
        return made

    def derived(self, node: int, weight: Tensor) -> Derived:
        """A weight of a step as such, the model's own or one that was made by `numbers`."""
        for name, (_, sources, made) in self._kept[node].items():
            if made is weight:
                return Derived(name, sources, lambda: weight, weight)
        return Derived("weight", (weight,), lambda: weight, weight)

    def push(
        self,
        node: int,
        geometry: ConvGeometry,
        value: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        *,
        exact: bool = False,
    ) -> Tensor:
        """W h + b of a convolution; packed, unless it cannot be."""
        if self._narrows(value) and not exact:
            return self.push(node, geometry, value.bfloat16(), self._narrow(node, weight), bias).to(value.dtype)
        if not (self.channels_last and packs(geometry, value, like(weight))):
            pushed = geometry.push(value, self.numbers(node, weight))
            return pushed if bias is None else pushed + bias.reshape(1, -1, *[1] * (pushed.dim() - 2))
        made = weight if isinstance(weight, Derived) else self.derived(node, weight)
        packed = self.get(
            node,
            f"{made.name}, packed",
            made.sources,
            lambda: pack_push(geometry, self._laid_out(made.make()), value.shape),
        )
        return packed.push(value, bias)

    def pull(self, node: int, geometry: ConvGeometry, value: Tensor, weight: Weight, goal: Tensor) -> Tensor:
        """Wᵀ s of such a convolution, in the shape of `goal`, whose values are not read."""
        if self._narrows(value):
            narrow = self._narrow(node, weight)
            goal = narrow.like.new_empty(1).expand(goal.shape)
            return self.pull(node, geometry, value.bfloat16(), narrow, goal).to(value.dtype)
        if not (self.channels_last and packs(geometry, value, like(weight))):
            return geometry.pull(value, self.numbers(node, weight), goal)
        made = weight if isinstance(weight, Derived) else self.derived(node, weight)
        outward = tuple(goal.shape[2:])
        packed = self.get(
            node,
            f"{made.name}, packed transpose to {outward}",
            made.sources,
            lambda: pack_pull(geometry, self._laid_out(made.make()), value.shape, outward),
        )
        return packed.pull(value)

    def numbers(self, node: int, weight: Weight) -> Tensor:
        """The numbers of a weight; of one that is derived, kept."""
        if isinstance(weight, Tensor):
            return weight
        return self.get(node, weight.name, weight.sources, weight.make)

    def _narrows(self, value: Tensor) -> bool:
        return self.bf16 and value.dtype == torch.float32

    def _narrow(self, node: int, weight: Weight) -> Derived:
        made = weight if isinstance(weight, Derived) else self.derived(node, weight)
        narrow = made.then("bf16", Tensor.bfloat16)
        return replace(narrow, like=made.like.new_empty(1, dtype=torch.bfloat16).expand(made.like.shape))

    def tensors(self) -> dict[Key, Tensor]:
        """What was made of weights, by step and name; packed weights apart."""
        kept = ((node, name, known) for node, names in self._kept.items() for name, known in names.items())
        return {(node, name): made for node, name, (_, sources, made) in kept if sources and isinstance(made, Tensor)}

    def packed(self, node: int, name: str) -> Packed | None:
        """The packed weight of that name, if there is one."""
        known = self._kept[node].get(name)
        return known[2] if known is not None and isinstance(known[2], Packed) else None

    def _laid_out(self, made: Made) -> Made:
        if self.channels_last and isinstance(made, Tensor) and made.dim() == 4:
            return made.contiguous(memory_format=torch.channels_last)  # type: ignore[return-value]
        return made

    def refresh(self, weights: Iterable[Tensor]) -> None:
        """Forget everything if any number of any weight is not what it was."""
        sums = [_checksums(weight) for weight in weights if weight.is_floating_point() and weight.numel()]
        if not sums:
            return
        found = torch.cat(sums)
        known = self._print
        if known is None or known.device != found.device or not torch.equal(found, known):
            self._kept.clear()
            self.generation += 1
        self._print = found


def like(weight: Weight) -> Tensor:
    """A tensor of a weight's shape, type and device."""
    return weight.like if isinstance(weight, Derived) else weight


def _stamp(tensor: Tensor) -> tuple[Any, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device, tuple(tensor.shape)


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksums(weight: Tensor) -> Tensor:
    """Sum of the bits, read as whole numbers, of each output channel: no single change leaves it as it was."""
    word = _WORDS[weight.element_size()]
    words = weight.view(word)
    return (words.sum(tuple(range(1, words.dim())), dtype=word) if words.dim() > 1 else words.flatten()).long()
