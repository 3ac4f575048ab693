"""`relprop cluster`: what the explanations of a data set have in common."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options
from relprop.errors import DataError, InputError, TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relprop.clusters import Clusters
    from relprop.data import Dataset, Sample
    from relprop.models import LoadedModel
    from relprop.report.of_clusters import Clustered

    How = Callable[[Sequence[Any]], Clusters]

_clusters = partial(typer.Option, rich_help_panel="Clusters")

Sources = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUN_OR_RESULTS...",
        help="A run of `relprop evaluate`, whose images are explained again, or folders that `relprop explain` wrote; "
        "none with --data.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", "-d", help="Labelled images to explain by --model: folder:ROOT, parquet:FILE, ..."),
]
Class = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        help="Class whose images are explained and clustered, index or name; repeatable.",
        show_default="each with enough images",
    ),
]
Samples = Annotated[int | None, typer.Option("--samples", "-n", min=1, help="Images of a class.", show_default="all")]
Count = Annotated[
    int | None,
    _clusters("--clusters", min=1, help="Number of clusters.", show_default="the widest gap between eigenvalues"),
]
Side = Annotated[int, _clusters(min=2, help="Maps are pooled to this side.")]
Neighbours = Annotated[
    int | None,
    _clusters(
        min=1,
        help="Maps that make a neighbourhood; a smaller cluster is not found.",
        show_default="the root of their number",
    ),
]
Seed = Annotated[int, typer.Option(help="Of k-means, of t-SNE, and of the choice of --samples.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")]


def cluster(
    *,
    sources: Sources = None,
    data: Data = None,
    model: options.Model = None,
    only: Class = None,
    samples: Samples = None,
    composite: options.Composite = "paper",
    joins: options.Joins,
    start: options.Start = "probability",
    clusters: Count = None,
    side: Side = 16,
    neighbours: Neighbours = None,
    seed: Seed = 0,
    out: Out = Path("clusters.html"),
    batch_size: options.BatchSize = 8,
    network: options.Network,
    classes: options.Classes = None,
    json: options.Json = False,
) -> int:
    """Group the maps of a class by what they look at: a watermark on some images comes out as a cluster of its own.

    Spectral relevance analysis (Lapuschkin et al. 2019). Writes one HTML file with an embedding of the maps, the
    eigenvalues that number the clusters, and the typical images of each. Needs the extra cluster.
    """
    from relprop.clusters import cluster as find_clusters
    from relprop.errors import require
    from relprop.models.classes import class_index
    from relprop.report.of_clusters import report_of_clusters
    from relprop.report.render import write
    from relprop.report.saved import is_run

    require("sklearn", "cluster")
    if bool(sources) == (data is not None):
        raise UsageError("give a run, or folders of results, or --data with --model: one of them")

    def how(maps: Sequence[Any]) -> Clusters:
        with console.waiting(f"clustering {len(maps)} maps"):
            return find_clusters(maps, count=clusters, side=side, neighbours=neighbours, seed=seed)

    device = network.chosen_device()
    facts: tuple[tuple[str, str], ...] = ()
    if sources and not (len(sources) == 1 and is_run(sources[0])):
        found = _of_results(sources, only, classes, how)
    else:
        if sources:
            loaded, dataset, chosen = _of_run(sources[0], device, network.trust, classes)
        else:
            from relprop.data import open_dataset

            assert data is not None
            dataset = open_dataset(data)
            loaded = network.load(model, classes).named_by(dataset.classes)
            chosen = dataset.samples
        facts = (("model", loaded.name), ("weights", loaded.source), ("data", dataset.name), ("composite", composite))
        groups = _groups(chosen, [class_index(text, loaded.classes) for text in only or ()], samples, seed)
        rules = joins.composite(composite)
        found = [
            _of_samples(loaded, dataset, label, group, rules, batch_size, device, start, side, how)
            for label, group in groups.items()
        ]
    path = write(report_of_clusters(found, [console.typed()], facts), out)
    if json:
        console.print_json({"file": str(path), "classes": [one.document() for one in found]})
    else:
        _print(found, path)
    return 0


def _of_run(
    root: Path, device: str, trust: bool, classes: Path | None
) -> tuple[LoadedModel, Dataset, tuple[Sample, ...]]:
    """The model and the images of a run of `relprop evaluate`."""
    from relprop.evaluation.store import open_run
    from relprop.models.classes import read_classes
    from relprop.report.of_run import opened

    names = None if classes is None else read_classes(classes)
    with console.waiting("loading the model"):
        return opened(open_run(root).plan, device, trust, names)


def _groups(
    samples: Sequence[Sample], wanted: list[int], count: int | None, seed: int
) -> dict[int, tuple[Sample, ...]]:
    """The images of each class asked for, or of each that has enough; at most `count` of each."""
    from relprop.clusters import FEWEST
    from relprop.data import balanced

    labels = wanted or sorted({sample.label for sample in samples})
    groups = {label: tuple(sample for sample in samples if sample.label == label) for label in labels}
    if count is not None:
        groups = {label: balanced(group, min(count, len(group)) or None, seed) for label, group in groups.items()}
    enough = {label: group for label, group in groups.items() if len(group) >= FEWEST}
    if not enough or (wanted and len(enough) < len(groups)):
        most = {label: len(group) for label, group in groups.items() if label not in enough}
        text = ", ".join(f"class {label}: {count}" for label, count in list(most.items())[:5])
        raise DataError(f"clusters need {FEWEST} images of a class at least; there are of {text}")
    return enough


def _of_samples(
    loaded: LoadedModel,
    dataset: Dataset,
    label: int,
    samples: Sequence[Sample],
    rules: Any,
    batch_size: int,
    device: str,
    start: Any,
    side: int,
    how: How,
) -> Clustered:
    """Explain images for a class and cluster their maps, which are pooled at once; typical ones are explained again."""
    import torch

    from relprop import LRP
    from relprop.clusters import pooled
    from relprop.report.of_clusters import Clustered, typical

    lrp, name = LRP(loaded.model, rules, ledger=False), loaded.class_name(label)

    def explain(group: Sequence[Sample]) -> Any:
        x = torch.stack([loaded.preprocess(dataset.load(sample)) for sample in group]).to(device)
        return lrp(x, target=label, start=start).heatmap.cpu()

    maps: list[Any] = []
    with console.progress(f"explaining {name}", len(samples)) as advance:
        for at in range(0, len(samples), batch_size):
            group = samples[at : at + batch_size]
            heatmaps = explain(group)
            if not heatmaps.isfinite().all():
                raise InputError("the relevance is not finite: these rules diverge on this network; paper does not")
            maps += [*pooled(heatmaps, side)]
            advance(len(group))
    clusters = how(maps)
    examples = {
        at: (loaded.preprocess.crop(dataset.load(samples[at])), explain([samples[at]])[0]) for at in typical(clusters)
    }
    return Clustered(name, tuple(sample.id for sample in samples), clusters, examples)


def _of_results(folders: Sequence[Path], only: list[str] | None, classes: Path | None, how: How) -> list[Clustered]:
    """Cluster saved maps, class by class."""
    from relprop.clusters import FEWEST
    from relprop.report.of_clusters import Clustered, typical
    from relprop.report.saved import named, read_comparison, results_in

    known: dict[tuple[int, str], list[tuple[Path, Any]]] = {}
    for folder in folders:
        found = results_in(folder)
        if not found:
            raise InputError(
                f"{folder} holds no saved result and is no run; `relprop explain --out {folder.name}` makes it"
            )
        for path in found:
            comparison = named([read_comparison(path)[0]], classes)[0]
            known.setdefault((comparison.target, comparison.class_name), []).append((path, comparison.maps[0].heatmap))
    names = {name.lower(): key for key in known for name in (key[1], str(key[0]))}
    if missing := [text for text in only or () if text.strip().lower() not in names]:
        there = ", ".join(f"{name} ({len(maps)} maps)" for (_, name), maps in known.items())
        raise TargetError(f"no saved map is of {missing[0]!r}; there are maps of {there}")
    wanted = [names[text.strip().lower()] for text in only] if only else [*known]
    enough = [key for key in wanted if len(known[key]) >= FEWEST]
    if not enough or (only and len(enough) < len(wanted)):
        there = ", ".join(f"{name}: {len(maps)}" for (_, name), maps in list(known.items())[:5])
        raise InputError(f"clusters need {FEWEST} maps of a class at least; there are of {there}")
    made = []
    for key in enough:
        clusters = how([heatmap for _, heatmap in known[key]])
        examples = {}
        for at in typical(clusters):
            path, heatmap = known[key][at]
            examples[at] = (read_comparison(path)[0].picture, heatmap)
        made.append(Clustered(key[1], tuple(path.name for path, _ in known[key]), clusters, examples))
    return made


def _print(found: list[Clustered], path: Path) -> None:
    for one in found:
        console.heading(f"{one.class_name} · {len(one.names)} maps")
        made = console.table("cluster", ">images", ">links that leave", "typical")
        for part in one.document()["clusters"]:
            first = ", ".join(part["images"][:3]) + (", ..." if part["size"] > 3 else "")
            made.add_row(str(part["cluster"]), str(part["size"]), f"{part['leaving']:.1%}", console.escape(first))
        console.show(made)
    console.wrote(path)
