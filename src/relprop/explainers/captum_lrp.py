"""captum's own LRP, run as the paper ran it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.core.capture import Model
from relprop.errors import CheckError, UnsupportedOpError, require
from relprop.explainers.base import EXPLAINERS, ByChannel, Channels, prepare, quiet


@EXPLAINERS.register("captum-lrp")
@dataclass(frozen=True)
class CaptumLrp(ByChannel):
    """captum's LRP with its default rules on the network as it is, as the paper's baseline.

    It knows nothing of residual joins or shared ReLUs: on stock residual networks its sums explode or end in NaN. A map
    that is not finite is reported as a failure, and so is one whose total exceeds the class's score `limit` times.
    """

    limit: float = 1e6  # "inf" lets every finite map pass, as the paper did
    channels: Channels = "sum"  # "sum" or "red"

    def attribute(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, C, H, W).

        Raises:
            UnsupportedOpError: captum has no rule for some of the network's modules; all are named.
            CheckError: captum failed, or its map cannot be used.
        """
        attr = require("captum.attr", "eval")
        twin, x, target = prepare(model, x, target, share=False)  # captum writes into the weights
        with torch.no_grad():
            score = twin(x).gather(1, target[:, None])[:, 0].abs()
        _require_rules(twin)
        try:
            with quiet():
                found: Tensor = attr.LRP(twin).attribute(x, target=target).detach()
        except Exception as error:
            raise CheckError(
                f"captum's LRP failed on {type(twin).__name__}: {type(error).__name__}: {error}"
            ) from error
        total = found.flatten(1).double().sum(1)
        bad = ~found.isfinite().flatten(1).all(1) | (total.abs() > self.limit * score.clamp(min=1e-6))
        if bool(bad.any()):
            at = bad.nonzero().flatten().tolist()
            raise CheckError(
                f"captum's LRP lost count on {type(twin).__name__} at picture(s) {', '.join(map(str, at))} of "
                f"{len(x)}: the map of the first sums to {float(total[at[0]]):.3g} for a score of "
                f"{float(score[at[0]]):.3g}; it handles neither residual "
                "joins nor modules that run several times. Use lrp"
            )
        return found


def _require_rules(model: object) -> None:
    """Name every module that captum has no rule for; it would stop at the first."""
    lrp = require("captum.attr._core.lrp", "eval")
    known = {*lrp.SUPPORTED_LAYERS_WITH_RULES, *lrp.SUPPORTED_NON_LINEAR_LAYERS}
    leaves = [(name, part) for name, part in model.named_modules() if not list(part.children())]  # type: ignore[attr-defined]
    missing = [f"{name} ({type(part).__name__})" for name, part in leaves if type(part) not in known]
    if missing:
        raise UnsupportedOpError(
            f"captum's LRP has no rule for {', '.join(missing)}; it knows "
            f"{', '.join(sorted(kind.__name__ for kind in known))}. Use lrp"
        )
