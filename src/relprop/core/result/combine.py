"""Weights of separator layers: how a map is read from the relevance of several of them.

    map = Σ_k w_k G_k U_k Σ_c R_k,   Σ_k w_k = 1

R_k is the relevance at layer k, summed over its channels, U_k brings it to the size of the image, and G_k smooths it,
if asked. Each of its cells hands out exactly what it holds (`relprop.core.result.enlarge`), whatever the sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from relprop.errors import UsageError


def require_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that do not add up to one.

    Raises:
        UsageError: there are none, one is not a number, or their sum is not one.
    """
    if not weights:
        raise UsageError("at least one layer needs a weight, such as {'late': 0.9, 'input': 0.1}")
    total = math.fsum(weights.values()) if all(map(math.isfinite, weights.values())) else math.nan
    if not abs(total - 1) <= 1e-6:
        raise UsageError(
            f"the weights of layers must add up to 1, so that the map holds what every layer holds; "
            f"{', '.join(f'{name} {weight:g}' for name, weight in weights.items())} add up to {total:g}"
        )


def parse_weights(text: str) -> dict[str, float]:
    """Read "0.9*late+0.1*input~1.5" (`~`: smoothed, see `parse_layer`); a name without a number has weight 1.

    Raises:
        UsageError: not of this form, or weights that do not add up to one.
    """
    weights: dict[str, float] = {}
    for part in text.split("+"):
        number, star, name = part.strip().rpartition("*")
        try:
            weight = float(number) if star else 1.0
        except ValueError:
            name = ""
        if not name.strip() or name.strip() in weights:
            raise UsageError(
                f"{part.strip()!r} in {text!r} is not WEIGHT*LAYER, each layer once; write it as 0.9*late+0.1*input"
            )
        weights[name.strip()] = weight
    require_weights(weights)
    return weights


def parse_layer(text: str) -> tuple[str, float]:
    """Read "input~1.5": a layer, and the Gaussian that its map is smoothed with, in pixels. Without `~` it is not (0).

    Raises:
        UsageError: what follows `~` is no width.
    """
    name, tilde, width = text.partition("~")
    try:
        smooth = float(width) if tilde else 0.0
    except ValueError:
        smooth = math.nan
    if not (0 < smooth < math.inf or (smooth == 0 and not tilde)):
        raise UsageError(
            f"{width!r} in {text!r} is no width to smooth with; give the standard deviation in pixels, above 0, as in "
            "input~1.5"
        )
    return name.strip(), smooth


def format_weights(weights: Mapping[str, float]) -> str:
    """Write weights as `parse_weights` reads them."""
    return "+".join(f"{weight:g}*{name}" for name, weight in weights.items())
