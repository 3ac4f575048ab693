"""Figures 3, 5 and 6: images beside their attributions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from relprop.errors import UsageError
from relprop.explainers import EXPLAINERS, POST
from relprop.reproduce.maps import FAIR, VARIANTS, baselines, chosen, proposed, quantization
from relprop.reproduce.pictures import choose, explained, show
from relprop.viz.grid import lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from relprop.data import Dataset, Sample
    from relprop.models import LoadedModel
    from relprop.reproduce.pictures import Shown
    from relprop.reproduce.setting import Setting

CLASSES = {"imagenet": ("sock", "bustard", "bee"), "cub": ("Brandt Cormorant", "Savannah Sparrow")}
"""Those of the pictures of Figure 5, by data set."""

_METHODS = {
    "lrp": "LRP",
    "integrated-gradients": "Integrated Gradients",
    "guided-backprop": "Guided Backprop",
    "grad-cam": "Grad-CAM",
    "score-cam": "Score-CAM",
    "proposed": "proposed",
}
_VARIANTS = {"i": "(i) symmetric,\nnot at identity joins", "iv": "(iv) ratio-based,\nat all joins"}


@dataclass(frozen=True)
class Part:
    """A model, and the data set whose pictures it explains for their true class."""

    loaded: LoadedModel
    dataset: Dataset
    setting: Setting

    def show(self, samples: Sequence[Sample]) -> list[Shown]:
        """Read the pictures of a figure."""
        return [show(sample, self.dataset, self.loaded, self.setting.device) for sample in samples]

    def explain(self, explainer: str, shown: Sequence[Shown], post: str | None = None) -> list[Any]:
        """One map a picture, quantized unless `post` is another step."""
        step = POST.build(quantization(self.setting) if post is None else post)
        return explained(EXPLAINERS.build(explainer), step, self.loaded, shown)


def figure3(part: Part, caption: str) -> Figure:
    """Draw each picture, and its quantized map by the proposed method."""
    shown = part.show(choose(part.dataset, part.loaded, part.setting))
    return gallery(shown, {"proposed": part.explain(proposed(part.setting), shown)}, caption)


def figure6(part: Part, caption: str) -> Figure:
    """Draw each picture, and its quantized maps by (i) and (iv) of Table 2: what splits and identity joins change."""
    shown = part.show(choose(part.dataset, part.loaded, part.setting))
    columns = {title: part.explain(proposed(part.setting, *VARIANTS[key]), shown) for key, title in _VARIANTS.items()}
    return gallery(shown, columns, caption)


def figure5(parts: Sequence[Part], caption: str) -> Figure:
    """Draw rows of images by six methods: maps summed over the channels, the proposed one quantized.

    Several parts give rows of several data sets and models in one figure, as in the paper.
    """
    rows: list[Shown] = []
    columns: dict[str, list[Any]] = {}
    for part, samples in zip(parts, _samples(parts), strict=True):
        shown = part.show(samples)
        rows += shown
        for key in chosen(tuple(_METHODS), part.setting):
            ours = key == "proposed"
            spec = proposed(part.setting) if ours else baselines(part.setting)[key][FAIR]
            columns.setdefault(_METHODS[key], []).extend(part.explain(spec, shown, None if ours else "none"))
    return gallery(rows, columns, caption)


def gallery(shown: Sequence[Shown], columns: Mapping[str, Sequence[Any]], caption: str) -> Figure:
    """Draw pictures beside their maps, as the paper does: one row an image, one column a method.

    A column holds for each row a map (H, W), or the reason why there is none.
    """
    if any(isinstance(one, str) for maps in columns.values() for one in maps):
        caption += " No map: the method cannot explain this network."
    rows = [f"{one.name}\np = {one.probability:.3f}" for one in shown]
    return lay_out([one.seen for one in shown], columns, rows, "image", caption=caption)


def _samples(parts: Sequence[Part]) -> list[tuple[Sample, ...]]:
    """Pictures of each part. Of several parts each shows those of `--images` that it has; else each an equal share."""
    names = parts[0].setting.images
    if len(parts) == 1 or not names:
        share = max(1, parts[0].setting.samples // len(parts))
        return [
            choose(p.dataset, p.loaded, replace(p.setting, samples=share), CLASSES.get(p.setting.kind, ()))
            for p in parts
        ]
    found: list[list[Sample]] = [[] for _ in parts]
    for name in names:
        reasons = []
        for part, mine in zip(parts, found, strict=True):
            try:
                mine += choose(part.dataset, part.loaded, replace(part.setting, images=(name,)))
                break
            except UsageError as error:
                reasons.append(str(error))
        else:
            raise UsageError("; ".join(reasons))
    return [tuple(mine) for mine in found]
