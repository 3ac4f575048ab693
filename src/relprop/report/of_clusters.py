"""A report of what a data set's explanations have in common: clusters of maps, and the images that are typical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop.report.document import Key, PanelRow, Plot, Report, Section, Table
from relprop.report.of_comparisons import how_section, plain
from relprop.report.pictures import common_scale, legend, panel, shares
from relprop.report.svg import Line, legend_line, legend_point, line_chart, looks, scatter
from relprop.viz.colour import scale_of
from relprop.viz.overlay import as_picture, blend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from relprop.clusters import Clusters

TYPICAL = 4
"""So many typical images of each cluster are shown."""

_CLUSTERS_TEXT = (
    "Each point is the map of one image, and near points are maps that are alike; distances between far ones, and the "
    "axes, mean nothing (t-SNE). Colours and numbers are the clusters. One that few links leave stands alone; one that "
    "a fifth of them leave is a part of a whole."
)
_TYPICAL_TEXT = (
    "The images whose maps are nearest to the mean of their cluster. A cluster says that the network looks at the same "
    "place of these images; whether that is the object or a watermark, a border or a caption, is for you to see."
)


@dataclass(frozen=True, eq=False)
class Clustered:
    """The maps of one class in clusters, and what the report shows of them."""

    class_name: str  # that was explained
    names: tuple[str, ...]  # of the N images
    clusters: Clusters  # of their maps
    # picture and map (H, W) of the images that are shown, by their index among the N
    examples: Mapping[int, tuple[Image, Any]]

    def document(self) -> dict[str, Any]:
        """Return the clusters as JSON knows them, images by name, the most typical first."""
        found = self.clusters
        parts = [
            {
                "cluster": at + 1,
                "size": len(found.members(at)),
                "leaving": found.leaving[at],
                "images": [self.names[index] for index in found.members(at)],
            }
            for at in range(found.count)
        ]
        return {"class": self.class_name, "eigenvalues": found.eigenvalues.tolist(), "clusters": parts}


def typical(clusters: Clusters, count: int = TYPICAL) -> list[int]:
    """Images that a report shows: the first `count` of each cluster."""
    return [index for at in range(clusters.count) for index in clusters.members(at)[:count]]


def report_of_clusters(
    found: Sequence[Clustered], commands: Sequence[str] = (), facts: Sequence[tuple[str, str]] = ()
) -> Report:
    """Make the report of the clusters of one class or several; `facts`, (what, text), stand at the top."""
    first = found[0]
    title = f"What explanations of {first.class_name} have in common" if len(found) == 1 else "Clusters of explanations"
    said = "; ".join(f"{one.class_name}: {_counted(one.clusters.count)} of {len(one.names)} maps" for one in found)
    metadata = tuple((what, plain(text)) for what, text in facts)
    sections = (*(section for one in found for section in _sections(one)), how_section(commands))
    return Report(title, f"{said}.", metadata, sections)


def _sections(one: Clustered) -> tuple[Section, Section]:
    found = one.clusters
    rows = tuple(_row(one, at) for at in range(found.count))
    cells = tuple(
        (str(at + 1), str(len(found.members(at))), f"{len(found.members(at)) / len(one.names):.1%}", f"{share:.1%}")
        for at, share in enumerate(found.leaving)
    )
    heads = ("cluster", "images", "share of the class", "weight of links that leave it")
    table = Table("The clusters, the largest first", heads, cells)
    plots = (_embedding(one), _eigenvalues(found))
    return (
        Section(f"Clusters of {one.class_name}", (_CLUSTERS_TEXT,), plots=plots, tables=(table,)),
        Section(f"Typical images of {one.class_name}", (_TYPICAL_TEXT,), rows),
    )


def _embedding(one: Clustered) -> Plot:
    found = one.clusters
    points = [(float(x), float(y)) for x, y in found.embedding]
    title = f"{len(points)} maps of {one.class_name} in {_counted(found.count)}"
    drawn = scatter(points, [int(label) for label in found.labels], one.names, f"{title}, a point each.")
    keys = tuple(Key(f"cluster {at + 1}", legend_point(at)) for at in range(found.count))
    return Plot(title, drawn, keys)


def _eigenvalues(found: Clusters) -> Plot:
    line = Line("eigenvalue", tuple(map(float, found.eigenvalues)))
    caption = f"Eigenvalues of the graph: {found.count} before the gap taken"
    keys = (Key("eigenvalue, ascending from number 0", legend_line(looks([line])[0])),)
    return Plot(caption, line_chart([line], f"{caption}.", "number", "eigenvalue"), keys)


def _row(one: Clustered, at: int) -> PanelRow:
    """The typical images of a cluster, each beside its map, on one scale of shares; then the mean of all its maps."""
    members = one.clusters.members(at)
    shown = [index for index in members if index in one.examples][:TYPICAL]
    maps = [shares(one.examples[index][1]) for index in shown]
    scale, panels = common_scale(maps), []
    for index, values in zip(shown, maps, strict=True):
        picture, name = one.examples[index][0], one.names[index]
        panels.append(panel(as_picture(picture), name, f"The picture {name}, as the network sees it."))
        alt = f"Relevance of {name} for {one.class_name}, over the picture."
        panels.append(panel(blend(picture, values, scale), "its relevance", alt))
    mean = one.clusters.mean(at)
    drawn = scale_of(mean).over(mean, np.zeros((*mean.shape, 3)))
    alt, size = f"Mean of the pooled maps of cluster {at + 1}.", f"pooled to {mean.shape[0]} x {mean.shape[1]}"
    panels.append(panel(drawn, "mean of all its maps", alt, f"{size}, on its own scale"))
    words = "1 image" if len(members) == 1 else f"{len(members)} images"
    return PanelRow(f"Cluster {at + 1}: {words}", "", tuple(panels), *legend(scale))


def _counted(count: int) -> str:
    return "1 cluster" if count == 1 else f"{count} clusters"
