"""Relevance of one tensor while the backward pass holds it, with its sums for the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from relprop.core.graph.batch_axis import FIRST, Place
from relprop.core.graph.support import Support


@dataclass(eq=False)
class Pending:
    """Relevance that waits for the step of its tensor.

    Attributes:
        relevance: in the tensor's shape.
        total: (N,) its sum, reused where relevance merely passes through; None where no ledger is kept.
        owned: whether nobody else holds this memory, so that it may be added to in place.
        place: where the batch lies in it.
    """

    relevance: Tensor
    total: Tensor | None
    owned: bool
    place: Place = FIRST
    _magnitude: Tensor | None = field(default=None, init=False)

    def plus(self, other: Pending) -> Pending:
        """The sum of what two consumers send to one tensor."""
        into, by = (other, self) if other.owned else (self, other)
        added = into.relevance.add_(by.relevance) if into.owned else into.relevance + by.relevance
        return Pending(added, self._total_of(added), owned=True, place=self.place)

    def seen(self, there: Support) -> tuple[Pending, Tensor | float]:
        """What lies where the image reaches, and the sum (N,) of the rest, which goes no further."""
        if there is None:
            return self, 0.0
        seen = torch.where(there, self.relevance, 0)
        here = replace(self, relevance=seen, total=self._total_of(seen), owned=True)
        outside = None if self.total is None else self._total_of(torch.where(there, 0, self.relevance))
        return here, 0.0 if outside is None else outside

    def passed(self, share: Tensor, place: Place, *, held: bool, shared: bool) -> Pending:
        """The pending relevance of an input that is sent `share` of this relevance.

        Args:
            share: in the input's shape.
            place: of the batch in it.
            held: whether somebody keeps this relevance.
            shared: whether somebody else may hold the memory of `share`: a user's rule, another input.
        """
        same = share is self.relevance or memory_of(share) == memory_of(self.relevance)
        if same and share.numel() == self.relevance.numel():
            part = Pending(share, self.total, self.owned and not held and not shared, place)
            part._magnitude = self._magnitude
            return part
        total = None if self.total is None else place.total(share, self.total.shape[0])
        return Pending(share, total, not (same or shared or _repeats(share)), place)

    def magnitude(self) -> Tensor:
        """(N,) sum of absolute relevance, reused where relevance merely passes through."""
        assert self.total is not None
        if self._magnitude is None:
            self._magnitude = self.place.total(self.relevance, self.total.shape[0], magnitude=True)
        return self._magnitude

    def _total_of(self, value: Tensor) -> Tensor | None:
        return None if self.total is None else self.place.total(value, self.total.shape[0])


def _repeats(value: Tensor) -> bool:
    """Whether one place in memory stands for several numbers, as after `expand`: nothing can be added in place."""
    strides = value.stride()
    return 0 in strides and any(not stride and size > 1 for stride, size in zip(strides, value.shape, strict=True))


def memory_of(value: Tensor) -> int:
    """What identifies the memory that a tensor or a view of it lies in."""
    address: int = value.untyped_storage()._cdata
    return address
