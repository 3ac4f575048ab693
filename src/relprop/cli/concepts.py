"""`relprop concepts`: the most relevant channels of a layer, with their maps and reference images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from relprop.cli import console, options
from relprop.errors import UsageError

Picture = Annotated[
    Path | None,
    typer.Argument(
        metavar="IMAGE", help="The picture to explain.", show_default="that of --of-class with most relevance"
    ),
]
Layer = Annotated[str, typer.Option("--layer", "-l", help="Whose channels: a module's path, such as layer4.1.")]
Data = Annotated[
    str, typer.Option("--data", "-d", help="Reference images: imagenet:ROOT, cub:ROOT, folder:ROOT, parquet:FILE, ...")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; the same command goes on with it.")]
OfClass = Annotated[
    str | None,
    typer.Option("--of-class", help="In place of a picture: the channels with most relevance on average for a class."),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", "-n", min=1, help="Of the data set, equally many of each class.", show_default="all"),
]
Seed = Annotated[int, typer.Option(help="Of the choice of samples.")]
Channels = Annotated[int, typer.Option("--channels", min=1, help="How many channels are shown.")]
References = Annotated[int, typer.Option("--references", min=0, help="How many reference images each.")]
By = Annotated[Literal["relevance", "activation"], typer.Option("--by", help="What reference images are chosen by.")]


def concepts(
    *,
    layer: Layer,
    data: Data,
    image: Picture = None,
    of_class: OfClass = None,
    target: options.Target = None,
    out: Out = Path("concepts"),
    samples: Samples = None,
    seed: Seed = 0,
    channels: Channels = 10,
    references: References = 8,
    by: By = "relevance",
    composite: options.Composite = "paper",
    joins: options.Joins,
    batch_size: options.BatchSize = 16,
    model: options.Model = None,
    network: options.Network,
    classes: options.Classes = None,
) -> int:
    """Show which channels of a layer a picture or a class is explained by, and what each of them looks at.

    Writes `report.html` into the run folder: the most relevant channels, each with the part of the map that goes
    through it and with the images of the data set in which it is most relevant.
    """
    if (image is None) == (of_class is None):
        raise UsageError("give a picture to explain, or --of-class CLASS, one of the two")
    if of_class is not None and target:
        raise UsageError("--target is of a picture; with --of-class that class is explained")
    from relprop import LRP
    from relprop.concepts import concepts_of, find_references
    from relprop.core.composites.presets import COMPOSITES
    from relprop.data import balanced, open_dataset
    from relprop.images import read_image
    from relprop.report.of_concepts import report_of_concepts
    from relprop.report.render import write

    rules, device = joins.spec(composite), network.chosen_device()
    dataset = open_dataset(data)
    options.require_indices(target, options.known_outputs(model))
    loaded = network.load(model, classes)
    asked = options.targets([of_class] if of_class is not None else target, 1, loaded.classes, loaded.outputs())
    if asked and len(asked[0]) != 1:
        raise UsageError("relprop concepts explains one class; name one")
    index = asked[0][0] if asked else None
    with console.progress("explaining", len(balanced(dataset.samples, samples, seed))) as advance:
        known = find_references(
            loaded, dataset, layer, out, composite=rules, samples=samples, seed=seed, batch=batch_size, device=device,
            progress=advance,
        )  # fmt: skip
    chosen = None
    if image is not None:
        name, picture = image.name, read_image(image)
    else:
        assert index is not None
        relevance, sample = known.of_class(index)
        chosen = relevance.argsort(descending=True, stable=True)[:channels].tolist()
        name, picture = sample.id, dataset.load(sample)
    lrp = LRP(loaded.model, COMPOSITES.build(rules), keep=[layer])
    x = loaded.preprocess(picture)[None].to(device)
    whole, found = concepts_of(lrp, x, index, known, channels=chosen, count=channels, by=by, shown=references)
    made = report_of_concepts(
        loaded, name, loaded.preprocess.crop(picture), whole, found, layer,
        lambda sample: loaded.preprocess.crop(dataset.load(sample)),
        by=by, commands=[console.typed()],
        facts=(("composite", rules), ("reference images of", f"{len(known.samples)} of {dataset.name}")),
    )  # fmt: skip
    table = console.table("channel", ">relevance", ">share", "first reference images")
    for concept in found:
        first = ", ".join(sample.id for sample, _ in concept.references[:3])
        table.add_row(
            str(concept.channel), f"{concept.relevance:.4g}", f"{100 * concept.share:.2f} %", console.escape(first)
        )
    console.heading(f"{loaded.name} · {layer} · {loaded.class_name(int(whole.target[0]))}")
    console.show(table)
    path = write(made, out / "report.html")
    console.wrote(path)
    return 0
