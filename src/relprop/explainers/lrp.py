"""Layer-wise relevance propagation by this project's own `LRP`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor

from relprop.core.capture import Model, unwrap
from relprop.core.composites.composite import Composite
from relprop.core.composites.presets import COMPOSITES, Classifier
from relprop.core.lrp import LRP
from relprop.explainers.base import EXPLAINERS, Channels, reduce_channels
from relprop.explainers.recent import Recent

LrpsByModel = partial(Recent[int, LRP], 2)
"""LRPs by the id of their model: of the model itself and, in parameter randomisation, of its randomised copy."""


@EXPLAINERS.register("lrp")
@dataclass(frozen=True)
class Lrp:
    """Layer-wise relevance propagation with any composite (Otsuki et al. 2024 by default).

    Options that are None are left to the composite; one that it does not have is an error. The last two models
    explained are held, with what derives from their weights.
    """

    composite: str = "paper"  # name in `relprop.core.composites.presets.COMPOSITES`
    split: Literal["ratio", "symmetric", "signed"] | None = None  # "ratio" (Eq. 5), "symmetric" (Eq. 4) or "signed"
    identity: bool | None = None  # whether identity skips get their share
    first: Literal["ones", "image"] | None = None  # "ones" or "image": what the first layer sees
    max_pool: Literal["winner", "average"] | None = None  # "winner" or "average"
    batch_norm: Literal["pass", "fold"] | None = None  # "pass" or "fold"
    eps: float | None = None  # ε, for the composites that have one
    g: float | None = None  # γ, likewise
    # relevance starts as the class's "probability" or its "logit"
    start: Literal["probability", "logit"] = "probability"
    channels: Channels = "sum"  # "sum" or "red"
    # "z+", "epsilon", "mean-subtracted" or "contrast": rule of the last weighted layer
    classifier: Classifier | None = None
    _known: Recent[int, LRP] = field(default_factory=LrpsByModel, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.rules()  # an unknown composite or option is an error now, not at the first picture

    def rules(self) -> Composite:
        """Make the composite that the options describe."""
        names = ("split", "identity", "first", "max_pool", "batch_norm", "eps", "g", "classifier")
        given = [f"{name}={value}" for name in names if (value := getattr(self, name)) is not None]
        return COMPOSITES.build(":".join([self.composite, *given]))

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        model = unwrap(model)
        # an LRP holds on to its model, so that the id stays the model's own
        lrp = self._known.get(id(model), lambda: LRP(model, composite=self.rules(), ledger=False))
        result = lrp(x, target=target, start=self.start)
        return reduce_channels(result.relevance, self.channels)
