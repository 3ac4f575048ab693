"""A report of concepts: the most relevant channels of a layer, each with its conditional map and reference images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from relprop.report.document import PanelRow, Report, Section
from relprop.report.of_comparisons import how_section, plain
from relprop.report.pictures import common_scale, panel, shares
from relprop.report.svg import colour_bar
from relprop.viz.overlay import as_picture, blend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from relprop.concepts import By, Concept
    from relprop.core.result.relevance import Relevance
    from relprop.data import Sample
    from relprop.models import LoadedModel

TEXT = (
    "A channel's relevance is what goes through it, and its map is that part of the whole map: where the layer is a "
    "separator layer, the maps of all its channels add up to the whole map. Maps are drawn in shares of their own "
    "total, on one colour scale; the heading says how much of the layer's relevance the channel holds."
)
BY = {
    "relevance": "Reference images are those in which the channel has most relevance for the class predicted there.",
    "activation": "Reference images are those that excite the channel most.",
}


def report_of_concepts(
    loaded: LoadedModel,
    name: str,
    picture: Image,
    whole: Relevance,
    concepts: Sequence[Concept],
    layer: str,
    seen: Callable[[Sample], Image],
    *,
    by: By = "relevance",
    commands: Sequence[str] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> Report:
    """Make the report of channels of a layer, at least one, in the explanation `whole` of a picture.

    Args:
        picture: as the network sees it.
        seen: reads a reference image, as the network sees it.
        by: what reference images were chosen by.
        facts: (what, text), for the list at the top.
    """
    class_name = loaded.class_name(int(whole.target[0]))
    maps = [shares(concept.heatmap) for concept in concepts]
    scale = common_scale(maps)
    colours = [tuple(row[:3]) for row in np.asarray(scale.bar_colours()(np.linspace(0, 1, 48)))]
    bar = colour_bar(colours), f"{100 * scale.low:.2g} %", f"{100 * scale.high:.2g} %", "share of the map per pixel"
    everything = shares(whole.heatmap[0].detach().cpu())
    rows = [
        PanelRow(
            f"{name}: {class_name}, {100 * float(whole.probability[0]):.1f} %",
            "",
            (
                panel(as_picture(picture), "original", f"The picture {name}, as the network sees it."),
                panel(blend(picture, everything, common_scale([everything])), "whole map", f"Map for {class_name}."),
            ),
        )
    ]
    for concept, values in zip(concepts, maps, strict=True):
        drawn = panel(blend(picture, values, scale), "conditional map", f"Map through channel {concept.channel}.")
        examples = [
            panel(as_picture(seen(sample)), sample.id, f"Reference image {sample.id}.", f"{value:.3g}")
            for sample, value in concept.references
        ]
        heading = f"channel {concept.channel}: {concept.relevance:.4g}, {100 * concept.share:.3g} % of the layer's"
        rows.append(PanelRow(heading, "", (drawn, *examples), *bar, small=True))
    held = sum(concept.share for concept in concepts)
    summary = f"The {len(concepts)} channels shown hold {100 * held:.3g} % of the relevance of {layer}."
    metadata: tuple[tuple[str, str], ...] = (
        ("model", loaded.name),
        ("weights", plain(loaded.source)),
        ("layer", layer),
    )
    metadata += tuple((what, plain(text)) for what, text in facts)
    section = Section("Channels", (TEXT, BY[by]), rows=tuple(rows))
    return Report(f"Channels of {layer} for {class_name}", summary, metadata, (section, how_section(commands)))
