"""Figure 5: five images explained for their true class by six methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from relprop.errors import UsageError
from relprop.explainers import EXPLAINERS, POST
from relprop.reproduce.gallery import gallery
from relprop.reproduce.maps import FAIR, baselines, chosen, proposed, quantization
from relprop.reproduce.pictures import choose, explained, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from relprop.data import Dataset, Sample
    from relprop.models import LoadedModel
    from relprop.reproduce.pictures import Shown
    from relprop.reproduce.setting import Setting

SAMPLES = 5
CLASSES = {"imagenet": ("sock", "bustard", "bee"), "cub": ("Brandt Cormorant", "Savannah Sparrow")}
"""Those of the paper's pictures, by data set."""

_TITLES = {
    "lrp": "LRP",
    "integrated-gradients": "Integrated Gradients",
    "guided-backprop": "Guided Backprop",
    "grad-cam": "Grad-CAM",
    "score-cam": "Score-CAM",
    "proposed": "proposed",
}


@dataclass(frozen=True)
class Part:
    """A model and the data set whose pictures it explains."""

    loaded: LoadedModel
    dataset: Dataset
    setting: Setting


def figure5(parts: Sequence[Part], caption: str) -> Figure:
    """Draw rows of images by methods: maps summed over the channels, the proposed one quantized.

    Several parts give rows of several data sets and models in one figure, as in the paper.
    """
    nothing = POST.build("none")
    rows: list[Shown] = []
    columns: dict[str, list[Any]] = {}
    for part, samples in zip(parts, _samples(parts), strict=True):
        setting = part.setting
        shown = [show(sample, part.dataset, part.loaded, setting.device) for sample in samples]
        rows += shown
        for key in chosen(tuple(_TITLES), setting):
            spec = proposed(setting) if key == "proposed" else baselines(setting)[key][FAIR]
            post = POST.build(quantization(setting)) if key == "proposed" else nothing
            columns.setdefault(_TITLES[key], []).extend(explained(EXPLAINERS.build(spec), post, part.loaded, shown))
    return gallery(rows, columns, caption=caption)


def _samples(parts: Sequence[Part]) -> list[tuple[Sample, ...]]:
    """Pictures of each part. Of several parts each shows those of `--images` that it has; else each an equal share.

    Raises:
        UsageError: `--images` names what no part has.
    """
    if len(parts) == 1:
        (part,) = parts
        return [choose(part.dataset, part.loaded, part.setting, CLASSES.get(part.setting.kind, ()))]
    names = parts[0].setting.images
    if not names:
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
