"""relprop as an explanation function of Quantus.

    from relprop.adapters.quantus import explain_func   # instead of: quantus.explain
    scores = quantus.Sparseness()(model, x, y, explain_func=explain_func, explain_func_kwargs={"composite": "released"})

Quantus itself is not needed to call it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from relprop.core.capture import Model
from relprop.core.composites.composite import Composite
from relprop.core.composites.presets import COMPOSITES
from relprop.core.lrp import LRP
from relprop.core.targets.target import Scale

__all__ = ["explain_func"]


def explain_func(
    model: Model,
    inputs: Any,
    targets: Any,
    *,
    composite: Composite | str | None = None,
    start: Scale = "probability",
    channels: Literal["sum", "keep"] = "sum",
    device: str | torch.device | None = None,
) -> npt.NDArray[np.floating[Any]]:
    """Explain a batch in the form that Quantus asks for.

    Args:
        model: in evaluation mode.
        inputs: (N, C, H, W), array or tensor.
        targets: (N,) classes.
        composite: which rules to use, or how it is written on the command line ("released:split=symmetric").
        start: relevance begins with the class's "probability" or its "logit".
        channels: "sum" over them, (N, 1, H, W), or "keep" them, (N, C, H, W).
        device: where to compute; the model has to be there. None is where it is.

    Returns:
        Relevance as it is, signed: Quantus takes absolute values and normalises where its metrics are told to.

    Raises:
        RelpropError: see `relprop.explain`.
    """
    weight = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    if device is None and weight is not None:
        device = weight.device
    x = torch.as_tensor(inputs, device=device)
    if weight is not None:
        x = x.to(weight.dtype)
    chosen = COMPOSITES.build(composite) if isinstance(composite, str) else composite
    result = LRP(model, chosen, ledger=False)(x, torch.as_tensor(targets), start=start)
    relevance = result.relevance if channels == "keep" else result.relevance.sum(1, keepdim=True)
    found: npt.NDArray[np.floating[Any]] = relevance.cpu().numpy()
    return found
