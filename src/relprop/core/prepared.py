"""What is derived from weights alone (W+, folded batch norms), kept until a weight changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from relprop.core.geometry import ConvGeometry
from relprop.core.packed import pack_pull, pack_push, packs

Made = TypeVar("Made")


@dataclass(eq=False)
class Prepared:
    """A cache that notices when weights change.

    A weight is known by its storage and its version, which every in-place update raises (optimisers and
    `load_state_dict` included). Writes through `weight.data` raise none; `refresh` sees those by checksums of
    all (1 to 2 % of the time at one image), and then forgets everything.

    Attributes:
        channels_last: whether what is made takes that memory format, and convolutions are packed. For CPUs.
    """

    channels_last: bool = False

    _kept: dict[int, dict[str, tuple[tuple[Any, ...], tuple[Tensor, ...], Any]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _print: Tensor | None = None

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

    def push(
        self, node: int, geometry: ConvGeometry, value: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """W h + b of a convolution whose weight is the model's, or was made from it by `get`."""
        if not (self.channels_last and packs(geometry, value, weight)):
            pushed = geometry.push(value, weight)
            return pushed if bias is None else pushed + bias.reshape(1, -1, *[1] * (pushed.dim() - 2))
        name = f"{self._name(node, weight)}, packed"
        packed = self.get(node, name, (weight,), lambda: pack_push(geometry, weight, value.shape))
        return packed.push(value, bias)

    def pull(self, node: int, geometry: ConvGeometry, value: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Wᵀ s of such a convolution, in the shape of `like`."""
        if not (self.channels_last and packs(geometry, value, weight)):
            return geometry.pull(value, weight, like)
        outward = tuple(like.shape[2:])
        name = f"{self._name(node, weight)}, packed transpose to {outward}"
        packed = self.get(node, name, (weight,), lambda: pack_pull(geometry, weight, value.shape, outward))
        return packed.pull(value)

    def _name(self, node: int, weight: Tensor) -> str:
        """What a weight is to a step: its own, or one that was made from that."""
        return next((name for name, (*_, made) in self._kept[node].items() if made is weight), "weight")

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
        self._print = found


def _stamp(tensor: Tensor) -> tuple[Any, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device, tuple(tensor.shape)


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksums(weight: Tensor) -> Tensor:
    """Sum of the bits, read as whole numbers, of each output channel: no single change leaves it as it was."""
    word = _WORDS[weight.element_size()]
    words = weight.view(word)
    return (words.sum(tuple(range(1, words.dim())), dtype=word) if words.dim() > 1 else words.flatten()).long()
