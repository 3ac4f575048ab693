"""Table 1: the method against five others, each as the release runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.reproduce.maps import Map, alike, baselines, chosen, controls, proposed, quantization
from relprop.reproduce.published import Against, published

if TYPE_CHECKING:
    from relprop.reproduce.setting import Setting


def maps(setting: Setting, against: Against = "imagenet") -> tuple[Map, ...]:
    """Rows of Table 1: the paper's, `lrp-cuts`, those of `--also`, and controls quantized as the proposed method is."""
    rows = {row.key: row.name for row in published("table1", against).rows}
    other, post = baselines(setting), quantization(setting)
    found = []
    for key in chosen(tuple(rows), setting):
        if key == "proposed":
            found.append(alike(f"{rows[key]} (HQ)", proposed(setting), post, key))
        else:
            found.append(Map(rows[key], {where: (spec, "none") for where, spec in other[key].items()}, key))
    also = (alike(spec, spec + ":amp=true" * (setting.amp and spec.startswith("rise"))) for spec in setting.also)
    return (*found, alike("lrp-cuts", "lrp-cuts"), *also, *controls(post))
