"""Figure 6: what splitting and identity joins change: variants (i) and (iv) of Table 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.explainers import EXPLAINERS, POST
from relprop.reproduce.gallery import gallery
from relprop.reproduce.maps import proposed, quantization
from relprop.reproduce.pictures import choose, explained, show
from relprop.reproduce.table2 import VARIANTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from relprop.data import Dataset
    from relprop.models import LoadedModel
    from relprop.reproduce.setting import Setting

SAMPLES = 3
_TITLES = {"i": "(i) symmetric,\nnot at identity joins", "iv": "(iv) ratio-based,\nat all joins"}


def figure6(loaded: LoadedModel, dataset: Dataset, setting: Setting, caption: str) -> Figure:
    """Draw each picture, and its quantized maps by (i) and (iv)."""
    shown = [show(sample, dataset, loaded, setting.device) for sample in choose(dataset, loaded, setting)]
    post = POST.build(quantization(setting))
    columns = {
        title: explained(EXPLAINERS.build(proposed(setting, *VARIANTS[key])), post, loaded, shown)
        for key, title in _TITLES.items()
    }
    return gallery(shown, columns, caption=caption)
