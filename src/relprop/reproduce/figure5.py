"""Figure 5: five images explained for their true class by six methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.explainers import EXPLAINERS, POST
from relprop.reproduce.gallery import gallery
from relprop.reproduce.maps import FAIR, baselines, chosen, proposed, quantization
from relprop.reproduce.pictures import choose, explained, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from relprop.data import Dataset
    from relprop.models import LoadedModel
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


def figure5(loaded: LoadedModel, dataset: Dataset, setting: Setting, caption: str) -> Figure:
    """Draw rows of images by methods: maps summed over the channels, the proposed one quantized."""
    samples = choose(dataset, loaded, setting, CLASSES.get(setting.kind, ()))
    shown = [show(sample, dataset, loaded, setting.device) for sample in samples]
    other, nothing = baselines(setting), POST.build("none")
    columns = {}
    for key in chosen(tuple(_TITLES), setting):
        spec = proposed(setting) if key == "proposed" else other[key][FAIR]
        post = POST.build(quantization(setting)) if key == "proposed" else nothing
        columns[_TITLES[key]] = explained(EXPLAINERS.build(spec), post, loaded, shown)
    return gallery(shown, columns, caption=caption)
