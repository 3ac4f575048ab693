"""Views of a tensor, and the tensor that a write through one leaves, as functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

#: (operation, arguments behind the tensor, (number of the result, *named arguments)) of a view
View = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


def write(base: Tensor, part: Tensor, views: tuple[View, ...]) -> Tensor:
    """A tensor of which a view holds other values: `base`, with `part` where `views`, one after the other, lead.

    It is what a write through a view is without writing, `y[:, :2] = x`.
    """
    written = base.clone()
    view(written, views).copy_(part)
    return written


def view(base: Tensor, views: tuple[View, ...]) -> Tensor:
    """What a chain of views shows of a tensor."""
    for func, args, (number, *keywords) in views:
        made = func(base, *args, **dict(keywords))
        base = made if isinstance(made, Tensor) else made[number]
    return base
