"""Which class to explain, and how much relevance it starts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from relprop.errors import TargetError, UsageError

Target = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None
Start = Literal["probability", "logit"]


def read_target(target: Target, logits: Tensor) -> Tensor:
    """The class to explain for each image, (N,) or (N, K) int64.

    Args:
        target: None for the predicted class, one class for all, or (N,) or (N, K) classes.
        logits: (N, classes).

    Raises:
        TargetError: of another shape or type, or no class of this model.
    """
    count, classes = logits.shape
    if target is None:
        return logits.argmax(1)
    try:
        chosen = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"target must be an int, a list of ints or an integer tensor, not {target!r} ({error})"
        ) from None
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise TargetError(f"target must hold whole class numbers, not {chosen.dtype}")
    if chosen.dim() == 0:
        chosen = chosen.expand(count)
    if chosen.dim() > 2 or len(chosen) != count:
        raise TargetError(
            f"target has shape {tuple(chosen.shape)} for {count} image(s); give one class, ({count},), or ({count}, K)"
        )
    if chosen.numel() == 0:
        raise TargetError("target names no class at all")
    outside = chosen[(chosen < 0) | (chosen >= classes)]
    if outside.numel():
        raise TargetError(
            f"class {int(outside[0])} does not exist: the model has {classes} classes, 0 to {classes - 1}"
        )
    return chosen.long()


def start_relevance(logits: Tensor, target: Tensor, start: Start) -> tuple[Tensor, Tensor]:
    """Relevance of the output: the class's probability or logit at the class, zero elsewhere.

    Args:
        logits: (N, classes).
        target: (N,).
        start: "probability" (the paper) or "logit".

    Returns:
        relevance (N, classes) and its sum (N,).
    """
    if start not in ("probability", "logit"):
        raise UsageError(f"start must be 'probability' or 'logit', not {start!r}")
    values = logits.softmax(1) if start == "probability" else logits
    score = values.gather(1, target[:, None])
    return torch.zeros_like(logits).scatter_(1, target[:, None], score), score[:, 0]
