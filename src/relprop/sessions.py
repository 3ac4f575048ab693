"""A session: a model, and pictures explained by it, one after another. Reports and the app show what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relprop.core.capture import last_step
from relprop.core.composites.presets import COMPOSITES
from relprop.core.graph.ops import COPIES, ELEMENTWISE
from relprop.core.graph.separators import separators
from relprop.core.lrp import LRP
from relprop.core.targets.start import probabilities_of
from relprop.core.targets.target import Contrast
from relprop.errors import InputError, RelpropError
from relprop.explainers.recent import Recent
from relprop.metrics.forward import callable_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from relprop.core.graph.graph import Graph, Node
    from relprop.core.result.relevance import Relevance
    from relprop.core.targets.start import Start, Target
    from relprop.explainers.cuts import LrpCuts
    from relprop.models import LoadedModel

Progress = Callable[[float, str], None]
"""Called as each of `stages` begins: with the share of stages that are done, and its name."""

PREPARE, DRAW = "preparing the image", "drawing"
_KEPT = 4  # an LRP holds the positive part of every weight
MOST = 24
"""Layers at which relevance is shown; of more, so many at even distances are."""


@dataclass(frozen=True, eq=False)
class Map:
    """What one method says of the picture."""

    name: str  # of the method, as a spec
    heatmap: Tensor | None  # (H, W) float32; None where the method failed
    error: str = ""  # why, in that case


@dataclass(frozen=True, eq=False)
class LayerMap:
    """Relevance at one separator layer of the network: a layer that all relevance passes."""

    name: str  # of the step
    shape: tuple[int, ...]  # of the value there, without the batch
    heatmap: Tensor  # (h, w) relevance, summed over channels
    total: float  # its sum


@dataclass(frozen=True, eq=False)
class Comparison:
    """One picture, one class, several maps."""

    name: str  # of the picture
    picture: Image  # what the network sees of it, RGB
    target: int  # index of the class explained, and `class_name`
    class_name: str
    probability: float | None  # that the model gives it; None where a contrast was explained
    maps: tuple[Map, ...]  # of the methods; the first is relevance propagation's own, if any was asked for
    # (name of the method, result with its ledger), for the methods that keep one
    results: tuple[tuple[str, Relevance], ...] = ()
    top: tuple[tuple[int, str, float], ...] = ()  # (index, name, probability) of the most probable classes
    layers: tuple[LayerMap, ...] = ()  # relevance at layers of the network, from the image to the output
    facts: tuple[tuple[str, str], ...] = ()  # (what, text): model, composite, ...
    regions: tuple[str, ...] = ()  # what parts of the picture hold of the score, a sentence each


@dataclass
class Session:
    """A model, an LRP for each of the last few composites, and lrp-cuts, ready for the next picture."""

    loaded: LoadedModel
    device: str = "cpu"
    _known: Recent[str, LRP] = field(default_factory=partial(Recent[str, LRP], _KEPT))
    _cuts: dict[str, LrpCuts] = field(default_factory=dict)

    def explain(
        self,
        name: str,
        picture: Image,
        *,
        target: int | None = None,
        against: int | None = None,
        composite: str = "paper",
        methods: Sequence[str] = (),
        start: Start = "probability",
        progress: Progress = lambda done, what: None,
    ) -> Comparison:
        """Explain a picture for a class.

        Args:
            name: of the picture.
            picture: as it was read; the network sees a crop of it.
            target: index of the class; None for the predicted one.
            against: explain why `target` rather than this class; lrp-cuts does too, other methods explain `target`.
            composite: spec of the rules, and `start` of relevance.
            methods: specs of other explainers to set beside it; one that fails says why in its place.
            progress: is called as each of `stages(methods)` begins.

        Raises:
            InputError, TargetError, UnsupportedOpError, ...: the picture or class cannot be explained.
        """
        steps = stages(methods)

        def begin(stage: int) -> None:
            progress(stage / len(steps), steps[stage])

        begin(0)
        seen = self.loaded.preprocess.crop(picture)
        x = self.loaded.preprocess(picture)[None].to(self.device)
        begin(1)
        if against is not None and target is None:
            with torch.no_grad():
                target = int(callable_model(self.loaded.model)(x)[0].argmax())
        asked: Target = None if target is None else [target] if against is None else Contrast(target, against)
        result: Relevance = self._lrp(composite, x)(x, target=asked, start=start).cpu()
        if not result.relevance.isfinite().all():
            raise InputError(f"the relevance is not finite: {composite!r} diverges on this network; paper does not")
        chosen = int(result.target[0]) if target is None else target
        maps = [Map(f"lrp:composite={composite}" if composite != "paper" else "lrp", result.heatmap[0])]
        for at, method in enumerate(methods):
            begin(2 + at)
            maps.append(self._other(x, chosen, against, method))
        begin(len(steps) - 1)
        layers, result = _layer_maps(result), replace(result, kept={})  # what was kept is as large as all activations
        what = self.loaded.class_name(chosen)
        return Comparison(
            name,
            seen,
            chosen,
            what if against is None else f"{what} rather than {self.loaded.class_name(against)}",
            float(result.probabilities[0, chosen]) if against is None else None,
            tuple(maps),
            results=((maps[0].name, result),),
            top=top_classes(self.loaded, result.probabilities[0]),
            layers=layers,
            facts=(("model", self.loaded.name), ("weights", self.loaded.source), ("composite", composite)),
        )

    def compare(self, name: str, picture: Image, methods: Sequence[str], *, target: int | None = None) -> Comparison:
        """Explain a picture by several explainers, given as specs; those that propagate relevance keep ledgers."""
        from relprop.explainers import EXPLAINERS
        from relprop.explainers.lrp import Lrp

        x = self.loaded.preprocess(picture)[None].to(self.device)
        with torch.no_grad():
            model = callable_model(self.loaded.model)
            probabilities = probabilities_of(model(x), last_step(model, x))[0].cpu()
        chosen = int(probabilities.argmax()) if target is None else target
        classes, maps, results = torch.tensor([chosen]), [], []
        for method in methods:
            explainer = EXPLAINERS.build(method)
            maps.append(found := other_map(self.loaded, x, classes, method))
            if isinstance(explainer, Lrp) and found.heatmap is not None:
                result = LRP(self.loaded.model, explainer.rules())(x, target=[chosen], start=explainer.start)
                results.append((method, result.cpu()))
        return Comparison(
            name,
            self.loaded.preprocess.crop(picture),
            chosen,
            self.loaded.class_name(chosen),
            float(probabilities[chosen]),
            tuple(maps),
            tuple(results),
            top_classes(self.loaded, probabilities),
            facts=(("model", self.loaded.name), ("weights", self.loaded.source)),
        )

    def _other(self, x: Tensor, target: int, against: int | None, method: str) -> Map:
        """Explain by another explainer; lrp-cuts is kept for the next picture, with what derives from the weights."""
        from relprop.explainers import EXPLAINERS
        from relprop.explainers.cuts import LrpCuts

        asked: Tensor | Contrast = torch.tensor([target])
        explainer = self._cuts.get(method) or EXPLAINERS.build(method)
        if isinstance(explainer, LrpCuts):
            self._cuts[method] = explainer
            asked = asked if against is None else Contrast(target, against)
        return map_by(explainer, self.loaded, x, asked, method)

    def _lrp(self, composite: str, x: Tensor) -> LRP:
        """Return the LRP of a composite, the one that it had last time if that is not long ago."""

        def make() -> LRP:
            rules = COMPOSITES.build(composite)
            return LRP(self.loaded.model, rules, keep=layers_shown(LRP(self.loaded.model, rules).graph(x)))

        return self._known.get(composite, make)


def stages(methods: Sequence[str] = ()) -> tuple[str, ...]:
    """What `Session.explain` does, one after the other."""
    return (PREPARE, "propagating relevance", *methods, DRAW)


def other_map(loaded: LoadedModel, x: Tensor, target: Tensor, method: str) -> Map:
    """Explain one input by any explainer; a failure is said in the map's place.

    Raises:
        UnknownNameError, UsageError: no such explainer, or no such option.
    """
    from relprop.explainers import EXPLAINERS

    return map_by(EXPLAINERS.build(method), loaded, x, target, method)


def map_by(explainer: Any, loaded: LoadedModel, x: Tensor, target: Tensor | Contrast, method: str) -> Map:
    """Explain one input (1, C, H, W) by an explainer that takes such a target; a failure is said in the map's place."""
    try:
        heatmap = explainer(loaded.model, x, target.to(x.device) if isinstance(target, Tensor) else target)
        heatmap = heatmap[0].detach().float().cpu()
    except Exception as error:  # other libraries raise nearly anything
        text = " ".join(str(error).split())[:300]
        return Map(method, None, text if isinstance(error, RelpropError) else f"{type(error).__name__}: {text}")
    if not heatmap.isfinite().all():
        return Map(method, None, "its map holds infinite values, or values that are not a number")
    return Map(method, heatmap)


def top_classes(loaded: LoadedModel, probabilities: Tensor, count: int = 5) -> tuple[tuple[int, str, float], ...]:
    """Return index, name and probability of the most probable classes, (classes,) probabilities given."""
    best = torch.topk(probabilities, min(count, len(probabilities)))
    return tuple(
        (int(at), loaded.class_name(int(at)), float(p)) for at, p in zip(best.indices, best.values, strict=True)
    )


def _layer_maps(result: Relevance) -> tuple[LayerMap, ...]:
    """Sum what was kept at each separator layer over its channels; in order from the image."""
    found = {name: value for (name, side), value in result.kept.items() if side == "output"}
    return tuple(
        LayerMap(name, tuple(value.shape[1:]), heat(value)[0].float(), float(value.double().sum()))
        for name, value in found.items()
    )


def layers_shown(graph: Graph, depth: int = 3, most: int = MOST) -> list[str]:
    """Names of separator layers, from the image (called "input") towards the output.

    A block (`depth` parts of a name) is shown by the last of its layers; only values that have rows and columns count.
    """
    found = [node for node in map(graph.nodes.__getitem__, separators(graph)) if _is_map(node)]
    last = [node for node, after in pairwise(found) if not _same_block(node, after, depth)] + found[-1:]
    names = ["input" if node.index == 0 else node.name for node in last]
    if len(names) <= most:
        return names
    return [names[round(at * (len(names) - 1) / (most - 1))] for at in range(most)]


def heat(relevance: Tensor) -> Tensor:
    """Sum relevance (N, C, H, H), or (N, H, H, C) as transformers have it, over its channels: (N, H, H)."""
    return relevance.sum(1 if relevance.shape[-1] == relevance.shape[-2] else -1)


def block_of(name: str, depth: int) -> str:
    """Return the block of a step: the first `depth` parts of its name, its own part left out; 0 keeps the whole."""
    parts = name.split(".")
    if depth == 0 or len(parts) == 1:
        return name
    return ".".join(parts[: min(depth, len(parts) - 1)])


def _is_map(node: Node) -> bool:
    """Whether it has square maps of more than one value, and is more than a copy: (N, C, H, H) or (N, H, H, C)."""
    shape = node.shape or ()
    return len(shape) == 4 and node.op not in COPIES and (shape[2] == shape[3] != 1 or shape[1] == shape[2] != 1)


def _same_block(node: Node, after: Node, depth: int) -> bool:
    """Whether the later of two neighbours can stand for both: of one block, or a layer and its activation."""
    block = block_of(node.name, depth)
    if "." in block and block == block_of(after.name, depth):
        return True
    return node.shape == after.shape and after.op in ELEMENTWISE
