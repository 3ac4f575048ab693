"""Layer-wise relevance propagation by this project's own `LRP`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from relprop.core.capture import Model, unwrap
from relprop.core.composites.composite import Composite
from relprop.core.composites.presets import COMPOSITES, Classifier
from relprop.core.lrp import LRP
from relprop.explainers.base import EXPLAINERS, Channels, reduce_channels

_REMEMBERED = 2  # the model itself and, in parameter randomisation, its randomised copy


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
    _known: dict[int, LRP] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.rules()  # an unknown composite or option is an error now, not at the first picture

    def rules(self) -> Composite:
        """Make the composite that the options describe."""
        names = ("split", "identity", "first", "max_pool", "batch_norm", "eps", "g", "classifier")
        given = [f"{name}={value}" for name in names if (value := getattr(self, name)) is not None]
        return COMPOSITES.build(":".join([self.composite, *given]))

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W), (N,) -> (N, H, W)."""
        lrp = remembered(self._known, model, lambda known: LRP(known, composite=self.rules(), ledger=False))
        result = lrp(x, target=target, start=self.start)
        return reduce_channels(result.relevance, self.channels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _known={})


def remembered(known: dict[int, LRP], model: Model, make: Callable[[Model], LRP]) -> LRP:
    """Return the LRP for `model`: the one that it had last time, with all that derives from the weights."""
    model = unwrap(model)
    lrp = known.pop(id(model), None) or make(model)
    known[id(model)] = lrp  # which holds on to the model, so that its id stays its own
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]
    return lrp
