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
    `load_state_dict` included). Writes through `weight.data` raise none; `refresh` sees those by a few numbers of
    each weight, and then forgets everything.

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
        """Forget everything if any weight's first, middle or last numbers are not what they were."""
        samples = [_sample(weight) for weight in weights if weight.is_floating_point() and weight.numel()]
        if not samples:
            return
        found = torch.cat(samples)
        if self._print is not None and (found.shape != self._print.shape or not torch.equal(found, self._print)):
            self._kept.clear()
        self._print = found


def _stamp(tensor: Tensor) -> tuple[Any, ...]:
    version = -1 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device, tuple(tensor.shape)


def _sample(weight: Tensor) -> Tensor:
    stride = max(1, (weight.numel() - 1) // 2)
    dense = weight if weight.is_contiguous() else weight.flatten()
    return dense.as_strided((min(3, weight.numel()),), (stride,)).float()
