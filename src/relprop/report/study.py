"""A study: one picture, one class, and what several methods say of it. Reports and the app show studies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relprop.core.composites.presets import COMPOSITES
from relprop.core.lrp import LRP
from relprop.core.targets.target import Contrast
from relprop.errors import InputError, RelpropError
from relprop.metrics.forward import callable_model
from relprop.report.cuts import cuts, heat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from relprop.core.result.relevance import Relevance
    from relprop.core.targets.start import Start, Target
    from relprop.models import LoadedModel

Tell = Callable[[float, str], None]
"""Told how far the work is, from 0 to 1, and what is done now."""

_ENGINES = 4  # an engine holds the positive part of every weight


@dataclass(frozen=True, eq=False)
class Map:
    """What one method says of the picture.

    Attributes:
        name: of the method, as a spec.
        heatmap: (H, W) float32; None where the method failed.
        error: why, in that case.
    """

    name: str
    heatmap: Tensor | None
    error: str = ""


@dataclass(frozen=True, eq=False)
class Stop:
    """Relevance at one cut of the network.

    Attributes:
        name: of the step.
        shape: of the value there, without the batch.
        heatmap: (h, w) relevance, summed over channels.
        total: its sum.
    """

    name: str
    shape: tuple[int, ...]
    heatmap: Tensor
    total: float


@dataclass(frozen=True, eq=False)
class Study:
    """One picture, one class, several maps.

    Attributes:
        name: of the picture.
        picture: what the network sees of it, RGB.
        target: index of the class explained, and `class_name`.
        probability: that the model gives it; None where a contrast was explained.
        maps: of the methods; the first is relevance propagation's own, if any was asked for.
        books: (name of the method, result with its ledger), for the methods that keep books.
        top: (index, name, probability) of the most probable classes.
        stops: relevance on its way through the network, from the image to the output.
        facts: (what, text): model, composite, ...
    """

    name: str
    picture: Image
    target: int
    class_name: str
    probability: float | None
    maps: tuple[Map, ...]
    books: tuple[tuple[str, Relevance], ...] = ()
    top: tuple[tuple[int, str, float], ...] = ()
    stops: tuple[Stop, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


@dataclass
class Workbench:
    """A model, and the engines that were made for it: the last few composites are ready for the next picture."""

    loaded: LoadedModel
    device: str = "cpu"
    _engines: OrderedDict[str, LRP] = field(default_factory=OrderedDict)

    def study(
        self,
        name: str,
        picture: Image,
        *,
        target: int | None = None,
        against: int | None = None,
        composite: str = "paper",
        methods: Sequence[str] = (),
        start: Start = "probability",
        tell: Tell = lambda done, what: None,
    ) -> Study:
        """Explain a picture for a class.

        Args:
            name: of the picture.
            picture: as it was read; the network sees a crop of it.
            target: index of the class; None for the predicted one.
            against: explain why `target` rather than this class; other methods explain `target` alone.
            composite: spec of the rules.
            methods: specs of other explainers to set beside it; one that fails says why in its place.
            start: relevance starts as the class's probability or logit.
            tell: is told how far the work is.

        Raises:
            InputError, TargetError, UnsupportedOpError, ...: the picture or class cannot be explained.
        """
        tell(0.0, "preparing the picture")
        seen = self.loaded.preprocess.crop(picture)
        x = self.loaded.preprocess(picture)[None].to(self.device)
        share = 1.0 / (2 + len(methods))
        tell(share / 2, "capturing the network, then propagating relevance")
        result = self._explain(x, target, against, composite, start)
        logits = result.logits[0]
        chosen = int(result.target[0]) if against is None else self._class(target, logits)
        maps = [Map(f"lrp:composite={composite}" if composite != "paper" else "lrp", result.heatmap[0])]
        for at, method in enumerate(methods):
            tell(share * (1 + at), f"{method} ({at + 1} of {len(methods)})")
            maps.append(other_map(self.loaded, x, torch.tensor([chosen]), method))
        tell(1.0 - share, "drawing")
        stops, result = _stops(result), replace(result, kept={})  # what was kept is as large as all activations
        what = self.loaded.class_name(chosen)
        return Study(
            name,
            seen,
            chosen,
            what if against is None else f"{what} rather than {self.loaded.class_name(against)}",
            float(result.probabilities[0, chosen]) if against is None else None,
            tuple(maps),
            books=((maps[0].name, result),),
            top=top_classes(self.loaded, result.probabilities[0]),
            stops=stops,
            facts=(("model", self.loaded.name), ("weights", self.loaded.source), ("composite", composite)),
        )

    def compare(self, name: str, picture: Image, methods: Sequence[str], *, target: int | None = None) -> Study:
        """Explain a picture by several explainers, given as specs; those that propagate relevance keep their books."""
        from relprop.explainers import EXPLAINERS
        from relprop.explainers.lrp import Lrp

        x = self.loaded.preprocess(picture)[None].to(self.device)
        with torch.no_grad():
            logits = callable_model(self.loaded.model)(x)[0].cpu()
        chosen = int(logits.argmax()) if target is None else target
        classes, maps, books = torch.tensor([chosen]), [], []
        for method in methods:
            explainer = EXPLAINERS.build(method)
            maps.append(found := other_map(self.loaded, x, classes, method))
            if isinstance(explainer, Lrp) and found.heatmap is not None:
                result = LRP(self.loaded.model, explainer.rules())(x, target=[chosen], start=explainer.start)
                books.append((method, result.cpu()))
        return Study(
            name,
            self.loaded.preprocess.crop(picture),
            chosen,
            self.loaded.class_name(chosen),
            float(logits.softmax(-1)[chosen]),
            tuple(maps),
            tuple(books),
            top_classes(self.loaded, logits.softmax(-1)),
            facts=(("model", self.loaded.name), ("weights", self.loaded.source)),
        )

    @staticmethod
    def _class(target: int | None, logits: Tensor) -> int:
        return int(logits.argmax()) if target is None else target

    def _explain(self, x: Tensor, target: int | None, against: int | None, composite: str, start: Start) -> Relevance:
        wanted: Target = None if target is None else [target]
        if against is not None:
            if target is None:
                with torch.no_grad():
                    target = int(callable_model(self.loaded.model)(x)[0].argmax())
            wanted = Contrast(target, against)
        result: Relevance = self._engine(composite, x)(x, target=wanted, start=start)
        result = result.cpu()
        if not result.relevance.isfinite().all():
            raise InputError(f"the relevance is not finite: {composite!r} diverges on this network; paper does not")
        return result

    def _engine(self, composite: str, x: Tensor) -> LRP:
        """Return the engine of a composite, the one that it had last time if it is not long ago."""
        engine = self._engines.pop(composite, None)
        if engine is None:
            rules = COMPOSITES.build(composite)
            stops = cuts(LRP(self.loaded.model, rules).graph(x))
            engine = LRP(self.loaded.model, rules, keep=stops)
        self._engines[composite] = engine
        while len(self._engines) > _ENGINES:
            self._engines.popitem(last=False)
        return engine


def other_map(loaded: LoadedModel, x: Tensor, target: Tensor, method: str) -> Map:
    """Explain one input by any explainer; a failure is said in the map's place.

    Raises:
        UnknownNameError, UsageError: no such explainer, or no such option.
    """
    from relprop.explainers import EXPLAINERS

    explainer = EXPLAINERS.build(method)
    try:
        heatmap = explainer(loaded.model, x, target.to(x.device))[0].detach().float().cpu()
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


def _stops(result: Relevance) -> tuple[Stop, ...]:
    """Sum what was kept at each cut over its channels; in order from the image."""
    found = {name: value for (name, side), value in result.kept.items() if side == "output"}
    return tuple(
        Stop(name, tuple(value.shape[1:]), heat(value)[0].float(), float(value.double().sum()))
        for name, value in found.items()
    )
