"""Figure 3: an image beside its attribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.explainers import EXPLAINERS, POST
from relprop.reproduce.gallery import gallery
from relprop.reproduce.maps import proposed, quantization
from relprop.reproduce.pictures import choose, explained, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from relprop.data import Dataset
    from relprop.models import LoadedModel
    from relprop.reproduce.setting import Setting

SAMPLES = 1


def figure3(loaded: LoadedModel, dataset: Dataset, setting: Setting, caption: str) -> Figure:
    """Explain the true class of each picture by the proposed method, quantized."""
    shown = [show(sample, dataset, loaded, setting.device) for sample in choose(dataset, loaded, setting)]
    explainer, post = EXPLAINERS.build(proposed(setting)), POST.build(quantization(setting))
    return gallery(shown, {"proposed": explained(explainer, post, loaded, shown)}, caption=caption)
