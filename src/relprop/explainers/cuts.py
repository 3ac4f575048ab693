"""Relevance combined from several separator layers: conserved like any map, and ahead by Insertion - Deletion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from relprop.core.capture import Model, unwrap
from relprop.core.composites.presets import COMPOSITES, Classifier
from relprop.core.lrp import LRP
from relprop.core.result.combine import parse_weights
from relprop.documents import read_object
from relprop.errors import InputError, UnknownNameError
from relprop.explainers.base import EXPLAINERS
from relprop.explainers.lrp import LrpsByModel
from relprop.explainers.recent import Recent
from relprop.files import write_json
from relprop.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from relprop.core.result.relevance import Relevance
    from relprop.core.targets.start import Target

_FORMAT = "relprop layer weights 1"


class Labelled(Protocol):
    """What is asked of a sample of a data set."""

    @property
    def id(self) -> str:
        """Its name, unique in the data set."""

    @property
    def label(self) -> int:
        """Index of its class."""


@dataclass(frozen=True)
class LayerWeights:
    """Which separator layers are combined, with which weights, under which rules.

    Attributes:
        text: weights as `relprop.core.graph.separators.parse_weights` reads them.
        composite: spec in `relprop.core.composites.presets.COMPOSITES`.
        provenance: how they were chosen: "selection", the label of each image by its id, then metric, candidates,
            scores; empty where nobody chose by measuring.
    """

    text: str
    composite: str = "two-sided"
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        parse_weights(self.text)
        COMPOSITES.build(self.composite)

    @cached_property
    def by_layer(self) -> dict[str, float]:
        """Weight of each separator layer."""
        return parse_weights(self.text)

    def chosen_on(self, samples: Iterable[Labelled]) -> frozenset[str]:
        """Ids of the samples that they were chosen on.

        What was chosen on an image looks better there than it is, so nothing reported may include it. Ids are the same
        in every layout of a data set; one that comes with another label tells that this is another data set.
        """
        noted = self.provenance.get("selection", {})
        both = [sample for sample in samples if sample.id in noted]
        alike = all(noted[sample.id] == sample.label for sample in both)
        return frozenset(sample.id for sample in both) if alike else frozenset()

    def save(self, path: str | Path) -> Path:
        """Write the weights and where they come from as JSON; returns the path."""
        path = Path(path)
        document = {"format": _FORMAT, "weights": self.text, "composite": self.composite}
        write_json(path, document | {"provenance": dict(self.provenance)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> LayerWeights:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it holds no weights.
            UsageError: it holds weights that this version cannot use.
        """
        document = read_object(Path(path), InputError)
        if document.get("format") != _FORMAT:
            found = document.get("format")
            raise InputError(f"{path} has format {found!r}; this version reads {_FORMAT!r}, which relprop tune writes")
        text, composite, provenance = (document.get(key) for key in ("weights", "composite", "provenance"))
        if not isinstance(text, str) or not isinstance(composite, str) or not isinstance(provenance, dict):
            raise InputError(f"{path} lacks its weights, composite or provenance; write it again with relprop tune")
        if not isinstance(provenance.get("selection", {}), dict):
            raise InputError(f"{path} does not say which images it was chosen on; write it again with relprop tune")
        return cls(text, composite, provenance)


WEIGHTS: Registry[LayerWeights] = Registry("set of layer weights")
WEIGHTS.add("default", LayerWeights.load(Path(__file__).parent.parent / "assets" / "lrp-cuts-default.json"))


def find_weights(spec: str) -> LayerWeights:
    """Return layer weights by name, from a file (.json), or spelled out as "0.9*late+0.1*input".

    Raises:
        UsageError: it is none of these.
    """
    if spec.endswith(".json"):
        return LayerWeights.load(spec)
    if "*" in spec or "+" in spec:
        return LayerWeights(spec)
    try:
        return WEIGHTS.build(spec)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"{error}; or a FILE.json of relprop tune, or weights as 0.9*late+0.1*input (one layer: 1*late)"
        ) from None


@EXPLAINERS.register("lrp-cuts")
@dataclass(frozen=True)
class LrpCuts:
    """Relevance at the late blocks and the pixels, three to one, under rules of both signs; after Otsuki et al. 2024.

    Every separator layer holds the same total, so a weighted mean of several holds it too: `Relevance.read`. One
    backward pass serves all of them.

    Attributes:
        weights: "default", the file that `relprop tune` wrote, or weights as "0.9*late+0.1*input".
        composite: name of the rules, if not the one that the weights were chosen under.
        classifier: rule of the last weighted layer, likewise.
        split: likewise "ratio" (Eq. 5), "symmetric" (Eq. 4) or "signed".
        start: relevance starts as the class's "probability" or its "logit".
    """

    weights: str = "default"
    composite: str | None = None
    classifier: Classifier | None = None
    split: Literal["ratio", "symmetric", "signed"] | None = None
    start: Literal["probability", "logit"] = "probability"
    _known: Recent[int, LRP] = field(default_factory=LrpsByModel, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.chosen  # unknown weights are an error now, not at the first picture

    @cached_property
    def chosen(self) -> LayerWeights:
        """The weights, with the rules that the options replace."""
        weights = find_weights(self.weights)
        given = {"classifier": self.classifier, "split": self.split}
        options = "".join(f":{name}={value}" for name, value in given.items() if value is not None)
        if not options and self.composite is None:
            return weights
        name, *own = (self.composite or weights.composite).split(":")
        kept = [option for option in own if given.get(option.partition("=")[0]) is None]
        return LayerWeights(weights.text, ":".join([name, *kept]) + options, weights.provenance)

    def __call__(self, model: Model, x: Tensor, target: Target) -> Tensor:
        """(N, C, H, W), (N,) classes or another target -> (N, H, W)."""
        weights, model = self.chosen, unwrap(model)

        def make() -> LRP:
            return LRP(model, COMPOSITES.build(weights.composite), keep=[*weights.by_layer], ledger=False)

        result: Relevance = self._known.get(id(model), make)(x, target=target, start=self.start)
        return result.combine(weights.by_layer).float()


def chosen_on(explainers: Iterable[object], samples: Sequence[Labelled]) -> frozenset[str]:
    """Ids of the samples that layer weights among the explainers were chosen on."""
    used = [explainer.chosen for explainer in explainers if isinstance(explainer, LrpCuts)]
    return frozenset(name for weights in used for name in weights.chosen_on(samples))
