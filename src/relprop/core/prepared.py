"""What is derived from weights alone (W+, folded batch norms), kept until a weight changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Prepared:
    """A cache that notices when weights change.

    A weight is known by its storage and its version, which every in-place update raises (optimisers and
    `load_state_dict` included). Writes through `weight.data` raise none; `refresh` sees those by checksums of
    all (1 to 2 % of the time at one image), and then forgets everything.

    Attributes:
        channels_last: whether what is made takes that memory format. On CPUs it saves every convolution a copy.
    """

    channels_last: bool = False

    _kept: dict[tuple[int, str], tuple[tuple[Any, ...], tuple[Tensor, ...], Tensor]] = field(default_factory=dict)
    _print: Tensor | None = None

    def get(self, node: int, name: str, sources: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return `make()`, from memory if the tensors it was made from are what they were."""
        stamp = tuple(_stamp(source) for source in sources)
        known = self._kept.get((node, name))
        if known is None or known[0] != stamp:
            # holding the sources keeps their addresses from being given to other weights
            known = (stamp, sources, self._laid_out(make()))
            self._kept[node, name] = known
        return known[2]

    def laid_out(self, node: int, weight: Tensor) -> Tensor:
        """The weight itself, in the memory format of what is made."""
        return self.get(node, "weight", (weight,), lambda: weight) if self.channels_last else weight

    def _laid_out(self, made: Tensor) -> Tensor:
        return made.contiguous(memory_format=torch.channels_last) if self.channels_last and made.dim() == 4 else made

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
