"""Relevance of one tensor while the walk passes it, with its sums for the ledger."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.core.support import Support


@dataclass(eq=False)
class Account:
    """Relevance of a tensor on the way.

    Attributes:
        relevance: in the tensor's shape.
        total: (N,) its sum, reused where relevance merely passes through; None where no book is kept.
        owned: whether nobody else holds this memory, so that it may be added to in place.
    """

    relevance: Tensor
    total: Tensor | None
    owned: bool

    def plus(self, other: Account) -> Account:
        """The sum of what two consumers send to one tensor."""
        into, by = (other, self) if other.owned else (self, other)
        added = into.relevance.add_(by.relevance) if into.owned else into.relevance + by.relevance
        return Account(added, None if self.total is None else total_of(added), owned=True)

    def seen(self, support: Support) -> tuple[Account, Tensor | float]:
        """What lies where the image reaches, and the sum (N,) of the rest, which goes no further."""
        if support is None:
            return self, 0.0
        there = support.to(self.relevance.device)
        seen = torch.where(there, self.relevance, 0)
        if self.total is None:
            return Account(seen, None, owned=True), 0.0
        return Account(seen, total_of(seen), owned=True), total_of(torch.where(there, 0, self.relevance))

    def passed(self, share: Tensor, *, held: bool, shared: bool) -> Account:
        """The account of an input that is sent `share` of this relevance.

        Args:
            share: in the input's shape.
            held: whether somebody keeps this relevance.
            shared: whether somebody else may hold the memory of `share`: a user's rule, another input.
        """
        same = share.untyped_storage().data_ptr() == self.relevance.untyped_storage().data_ptr()
        if same and share.numel() == self.relevance.numel():
            return Account(share, self.total, self.owned and not held and not shared)
        return Account(share, None if self.total is None else total_of(share), owned=not same and not shared)


def total_of(relevance: Tensor, *, magnitude: bool = False) -> Tensor:
    """(N,) sum of each sample in float64.

    Only the dimension that lies densest in memory is summed in the tensor's own type first (by torch's cascade, so
    to rounding): a float64 sum of everything would convert, and so copy, all of it, at several times the cost.
    """
    exact = torch.float32 if relevance.device.type == "mps" else torch.float64
    if magnitude:
        relevance = relevance.abs()
    if relevance.dim() > 2:
        relevance = relevance.sum(-1 if relevance.stride(-1) == 1 and relevance.stride(1) != 1 else 1)
    return relevance.sum(tuple(range(1, relevance.dim())), dtype=exact) if relevance.dim() > 1 else relevance.to(exact)
