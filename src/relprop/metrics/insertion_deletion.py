"""Insertion, deletion and their difference, and the symmetric relevance gain (Eq. and protocols: see `protocols`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from relprop.metrics.base import METRICS, Array, Classes, Inputs, Metric, read_classes
from relprop.metrics.curves import Curves, masking_curves
from relprop.metrics.forward import Forward
from relprop.metrics.masking import Fill
from relprop.metrics.protocols import PROTOCOLS, Protocol, Score, Ties


@METRICS.register("insertion-deletion")
@dataclass(frozen=True)
class InsertionDeletion(Metric):
    """Score of the class while pixels appear or vanish, most relevant first: mean over the way (Petsiuk et al. 2018).

    `id` is insertion - deletion. The protocol decides as much as the heatmap does; see `protocols`.

    Attributes:
        protocol: a spec in `PROTOCOLS`, or a `Protocol`.
        step, ties, fill, score, ends: replace the protocol's own where given.
        amp: run the model in bfloat16 where autocast allows it.
        channels_last: hand pictures over in channels-last memory; by default where that is faster.
        batch: pictures at once; by default found out.
    """

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"insertion": True, "deletion": False, "id": True}
    unit: ClassVar[str] = "mean score along the curve (a probability, unless the protocol scores logits)"
    reference: ClassVar[str] = "Petsiuk et al. 2018, arXiv 1806.07421; Otsuki et al. 2024, arXiv 2407.09115"

    protocol: str | Protocol = "fair"
    step: float | None = None
    ties: Ties | None = None
    fill: Fill | None = None
    score: Score | None = None
    ends: bool | None = None
    amp: bool = False
    channels_last: bool | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        self.settings()  # an unknown protocol is an error now

    def settings(self) -> Protocol:
        """Return the protocol with the replacements."""
        base = self.protocol if isinstance(self.protocol, Protocol) else PROTOCOLS.build(self.protocol)
        names = ("step", "ties", "fill", "score", "ends")
        return replace(base, **{name: value for name in names if (value := getattr(self, name)) is not None})

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """Heatmaps (N, H, W), or several of the same inputs, (M, N, H, W): (N,) or (M, N) by row."""
        return self.curves(inputs).values()

    def curves(self, inputs: Inputs) -> Curves:
        """Return the curves behind the values."""
        protocol = self.settings()
        by_label = protocol.score == "label"
        classes = read_classes(inputs.label, inputs.x, "true label") if by_label else inputs.classes
        forward = Forward(self.amp, self.channels_last, self.batch)
        return masking_curves(inputs, classes, protocol, forward)


def insertion_deletion(
    model: Any,
    x: Array,
    heatmap: Array,
    target: Classes,
    label: Classes = None,
    *,
    protocol: str | Protocol = "fair",
    preprocess: Any = None,
    black: Tensor | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Insertion, deletion and ID of heatmaps, numpy or torch, however they were made.

        scores = insertion_deletion(model, x, heatmap, target, preprocess=loaded.preprocess)

    `preprocess` and `black` are those of `Inputs`, `options` those of `InsertionDeletion`.
    Returns `insertion`, `deletion` and `id`, each (N,).

    Raises:
        InputError: heatmaps that do not fit, or are not finite.
        UsageError: something that the protocol needs is missing.
    """
    metric = InsertionDeletion(protocol, **options)
    return metric(model, x, heatmap, target, label=label, preprocess=preprocess, black=black)


@METRICS.register("symmetric-relevance-gain")
@dataclass(frozen=True)
class SymmetricRelevanceGain(Metric):
    """How much longer the score lasts when the least relevant pixels go first (Blücher et al. 2024).

        SRG = area(least relevant first) - area(most relevant first)

    Both remove pixels. What is left when the least relevant have gone are the most relevant, so with exact counts and
    both end points the first curve is insertion read backwards: SRG is the ID of that protocol. It is reported
    with a fill that stays near the data, and is known to rank methods much alike under any fill.

    Attributes:
        step: pixels a step; below 1 a fraction; by default as in `protocols`.
        fill: what stands for a removed pixel.
        score: "target" (a probability) or "logit".
        seed: of ties.
    """

    higher_is_better: ClassVar[Mapping[str, bool | None]] = {"symmetric-relevance-gain": True}
    unit: ClassVar[str] = "difference of mean scores"
    reference: ClassVar[str] = "Blücher, Vielhaben, Strodthoff 2024, arXiv 2401.06654"

    step: float | None = None
    fill: Fill = "blur"
    score: Score = "target"
    seed: int = 0
    amp: bool = False
    channels_last: bool | None = None
    batch: int | None = None

    def measure(self, inputs: Inputs) -> dict[str, Tensor]:
        """Measure as `InsertionDeletion` does."""
        protocol = Protocol(self.step, "shuffled", self.fill, self.score, True, self.seed)
        metric = InsertionDeletion(protocol, amp=self.amp, channels_last=self.channels_last, batch=self.batch)
        return {"symmetric-relevance-gain": metric.measure(inputs)["id"]}
