"""Views of a tensor, and the tensor that a write through one leaves, as functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: (operation, arguments behind the tensor, (number of the result, *named arguments)) of a view
View = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


#: views that need a memory format in which the new shape is one
VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def write(base: Tensor, part: Tensor, views: tuple[View, ...]) -> Tensor:
    """A tensor of which a view holds other values: `base`, with `part` where `views`, one after the other, lead.

    It is what a write through a view is without writing, `y[:, :2] = x`.
    """
    shown = shown_by(views, base)
    return base.flatten().index_copy(0, shown.flatten(), part.expand(shown.shape).flatten()).view(base.shape)


def shown_by(views: tuple[View, ...], base: Tensor) -> Tensor:
    """Which elements of a tensor a chain of views shows, in its shape: their numbers, counted row by row."""
    return view(torch.arange(base.numel(), device=base.device).view(base.shape), views)


def view(base: Tensor, views: tuple[View, ...]) -> Tensor:
    """What a chain of views shows of a tensor, in whatever memory format that is."""
    for func, args, (number, *keywords) in views:
        made = (torch.ops.aten.reshape.default if func in VIEWS else func)(base, *args, **dict(keywords))
        base = made if isinstance(made, Tensor) else made[number]
    return base
