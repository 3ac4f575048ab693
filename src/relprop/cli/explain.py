"""`relprop explain`: pictures, raw heatmaps and the conservation of relevance for images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options, regions
from relprop.documents import naming
from relprop.errors import InputError, UsageError
from relprop.tables import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from torch import Tensor

    from relprop import Relevance
    from relprop.cli.batches import Item, Job
    from relprop.models import LoadedModel
    from relprop.sessions import Map

Quantize = Annotated[
    int | None,
    typer.Option(min=1, help="Draw the heatmap in this many levels (Heat Quantization, Eq. 8); the paper takes 8."),
]
Post = Annotated[
    str | None,
    typer.Option(
        help="What the picture shows of the heatmap: none (each pixel), smooth:1, positive, ...; files keep it raw.",
        show_default="smooth:1, or none with --quantize or --combine",
    ),
]
Contrast = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Explain why class A rather than class B: relevance sums to p(A) - p(B)."),
]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layer", metavar="NAME", help="Write the relevance of what leaves this layer too; repeatable."),
]
Formats = Annotated[
    str,
    typer.Option(
        "--format",
        help="Files, with commas: png (the figure), and of the raw heatmap npy, npz (all tensors), csv (as text).",
    ),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Explainers whose maps stand beside in the figure, as grad-cam,lrp-cuts; none for none.",
        show_default="lrp-cuts, beside the paper's map",
    ),
]
Combine = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Rules",
        help="Combine the relevance of several layers, as lrp-cuts does: default, a FILE of relprop tune, or weights "
        "as 0.9*late+0.1*input.",
        show_default="the pixels alone",
    ),
]
Composite = Annotated[
    str | None,
    typer.Option(
        "--composite",
        "-c",
        rich_help_panel="Rules",
        help="Choice of rules: paper, two-sided, released, original, epsilon, gamma, ...; options as epsilon:1e-6.",
        show_default="paper, or the one that the weights were chosen under",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")]


def explain(
    *,
    images: options.Images = None,
    model: options.Model = None,
    recursive: options.Recursive = False,
    target: options.Target = None,
    contrast: Contrast = None,
    composite: Composite = None,
    combine: Combine = None,
    joins: options.Joins,
    start: options.Start = "probability",
    quantize: Quantize = None,
    post: Post = None,
    layer: Layers = None,
    box: regions.Boxes = None,
    mask: regions.Masks = None,
    formats: Formats = "png,npy",
    compare: Compare = None,
    out: Out = Path("relprop-out"),
    batch_size: options.BatchSize = 8,
    network: options.Network,
    classes: options.Classes = None,
    json: options.Json = False,
) -> int:
    """Explain images: which pixels the probability of a class comes from.

    For each image NAME it writes NAME.png (the image, its relevance, and the map of lrp-cuts, which combines
    several layers), NAME.npy (the raw heatmap, float32) and NAME/ (relevance per channel and a manifest);
    of several images index.html shows all. The picture is drawn after a Gaussian of one pixel, and says so:
    the first layers' strides make a lattice of single pixels; --post none draws it as it is. Without images it
    explains the bundled photograph. --box and --mask say which share of the score a part of the photograph holds.
    With --combine the heatmap combines several layers of the network (explainer
    lrp-cuts), and NAME/ holds their relevance too.

    Exit code 1 if some images could not be read; the others are done, and those are listed.
    """
    from relprop import LRP
    from relprop.cli import batches
    from relprop.explainers import POST
    from relprop.explainers.cuts import find_weights
    from relprop.sessions import other_map

    weights = None if combine is None else find_weights(combine)
    if target and contrast is not None:
        raise UsageError("--contrast names both classes itself; give it or --target, not both")
    plain = composite is None and weights is None and contrast is None
    others = _others(compare, plain, start)
    if others and contrast is not None:
        raise UsageError("--compare sets maps of one class beside each other; leave out --contrast")
    spec = composite or ("paper" if weights is None else weights.composite)
    drawn = post or ("smooth:1" if weights is None and quantize is None else "none")
    view = View(
        out,
        POST.build(drawn),
        drawn,
        quantize,
        joins.spec(spec),
        None if weights is None else weights.text,
        tuple(layer or ()),
        _formats(formats),
        regions.read_regions(box, mask),
        others,
    )
    rules = joins.composite(spec)
    device = network.chosen_device()
    items = batches.find_items(images, recursive=recursive)
    loaded, items = batches.load_for(items, target, network, model, classes, contrast=contrast)
    out.mkdir(parents=True, exist_ok=True)
    lrp = LRP(loaded.model, composite=rules, keep=[*view.layers, *(() if weights is None else weights.by_layer)])
    job = batches.Job(loaded, lrp, items, batch_size, device, start)
    rows = []
    for ready, result in job.results():
        for item, single in zip(ready, batches.split(result.cpu()), strict=True):
            if not single.relevance.isfinite().all():
                job.fail(item, f"the relevance is not finite: {spec!r} diverges on this network; paper does not")
                continue
            try:
                seen = [region.seen(loaded.preprocess, item.size) for region in view.regions]
            except InputError as error:
                job.fail(item, str(error))
                continue
            row = _row(item, single, view, job) | view.measure(single, seen)
            assert item.x is not None  # it was explained
            x = item.x[None].to(device)
            maps = [other_map(loaded, x, single.target, method) for method in view.others]
            for failed in (found for found in maps if found.heatmap is None):
                console.warn(f"{item.name}: {failed.name} has no map: {failed.error}")
            rows.append(row | {"files": view.write(item, single, loaded, seen, maps)})
    job.require(len(rows))
    if len(rows) > 1 and "png" in view.formats:
        from relprop.report.render import write_index

        with naming(out):
            write_index(out, rows, f"{loaded.name} · {view.rules}")
    if json:
        document = {"model": loaded.name, "source": loaded.source, "composite": view.composite, "start": start}
        document |= {"drawn_after": view.spec}
        document |= {} if view.combine is None else {"combine": view.combine}
        console.print_json({**document, "images": rows, "failures": job.failed()})
    else:
        console.heading(f"{loaded.name} · {view.rules}")
        _print(rows, start, view)
        for sentence in unsaid(loaded):
            console.out.print(console.escape(sentence), soft_wrap=True)
        job.report()
    return 1 if job.failures else 0


@dataclass(frozen=True)
class View:
    """How results are drawn and where they go."""

    out: Path  # folder
    post: Callable[[Tensor], Tensor]  # what the picture shows of a heatmap, and `spec`, how that was written
    spec: str
    quantize: int | None  # levels of the drawn heatmap, None for a continuous one
    composite: str  # spec of the rules, for the caption
    combine: str | None = None  # weights of the layers that the heatmap combines; None for the pixels alone
    layers: tuple[str, ...] = ()  # whose relevance is written too
    formats: tuple[str, ...] = ("png", "npy")  # of the raw heatmap's files
    regions: tuple[regions.Region, ...] = ()  # of the photograph, whose share of the score is measured
    others: tuple[str, ...] = ()  # explainers whose maps stand beside

    @property
    def rules(self) -> str:
        """The rules, and the layers if several are combined, for captions."""
        return self.composite if self.combine is None else f"{self.composite} · {self.combine}"

    def heatmap(self, result: Relevance) -> Tensor:
        """The map (N, H, W) of a result: at the pixels, or of several layers combined."""
        from relprop.core.result.combine import parse_weights

        return result.heatmap if self.combine is None else result.combine(parse_weights(self.combine))

    def measure(self, result: Relevance, seen: list[Tensor]) -> dict[str, Any]:
        """Relevance of each region, given what the network sees of it; nothing where none was asked for."""
        heatmap, score = self.heatmap(result), float(result.score[0])
        pairs = zip(self.regions, seen, strict=True)
        found = [regions.measure(region, covered, heatmap, score) for region, covered in pairs]
        return {"regions": found} if found else {}

    def write(
        self, item: Item, result: Relevance, loaded: LoadedModel, seen: list[Tensor], maps: list[Map]
    ) -> list[str]:
        """Write the picture, the raw heatmap and the whole result of one image; returns their paths."""
        from relprop import viz
        from relprop.report.saved import annotate

        whole, heatmap = self.out / item.name, self.heatmap(result)
        measured = self.measure(result, seen)
        with naming(self.out):
            files = []
            if "png" in self.formats:
                picture = self.out / f"{item.name}.png"
                shares = [f"{100 * row['share']:.1f} %" for row in measured.get("regions", ())]
                viz.save(self._figure(item, result, loaded, list(zip(shares, seen, strict=True)), maps), picture)
                files.append(str(picture))
            files += self._raw(item.name, result, heatmap[0].float().numpy())
            for layer in self.layers:
                files += self._layer(item, result, layer, float(result.score[0]))
            result.save(whole)
            annotate(whole, item.picture, self._about(result, loaded, item) | measured)
        return [*files, str(whole)]

    def _figure(
        self, item: Item, result: Relevance, loaded: LoadedModel, outlined: list[tuple[str, Tensor]], maps: list[Map]
    ) -> Figure:
        """Draw the photograph, its map, and those of other explainers; what was said, and the next three classes."""
        from relprop import quantize, viz

        heatmap, score = self.heatmap(result), float(result.score[0])
        drawn = self.post(heatmap)
        drawn = drawn if self.quantize is None else quantize(drawn, self.quantize)
        caption = f"{loaded.name} · {self.rules} · relevance sums to {float(heatmap.double().sum()):.6f} of {score:.6f}"
        others = [
            (found.name, self.post(found.heatmap[None])[0], _score_of(found.name, result))
            for found in maps
            if found.heatmap is not None
        ]
        return viz.side_by_side(
            item.picture,
            drawn[0],
            title=f"{explained(result, loaded, item)}   {_size(result)}",
            subtitle=_next_classes(result, loaded)
            + (caption if self.spec == "none" else f"{caption} · drawn after {self.spec}"),
            score=score,
            levels=self.quantize is not None or self.spec.startswith("quantize"),
            regions=outlined,
            name=self.rules if others else "",
            others=others,
        )

    def _raw(self, name: str, result: Relevance, heatmap: Any) -> list[str]:
        """Write the raw heatmap (H, W), float32, in each format: as an array, with all tensors, as text."""
        import numpy as np

        paths = {kind: self.out / f"{name}.{kind}" for kind in self.formats}
        if "npy" in paths:
            np.save(paths["npy"], heatmap)
        if "npz" in paths:
            tensors = {part: result.numpy(part)[0] for part in ("relevance", "logits", "target", "score")}
            np.savez_compressed(paths["npz"], heatmap=heatmap, **tensors)
        if "csv" in paths:
            np.savetxt(paths["csv"], heatmap, fmt="%.9g", delimiter=",")  # nine digits give float32 back exactly
        return [str(path) for kind, path in paths.items() if kind != "png"]

    def _layer(self, item: Item, result: Relevance, layer: str, score: float) -> list[str]:
        """Write what leaves a layer: its relevance in its own shape, and its map over the picture if it has one."""
        import numpy as np

        from relprop import viz
        from relprop.sessions import heat

        values = result.at(layer)
        raw, picture = (self.out / f"{item.name}.{layer}.{kind}" for kind in ("npy", "png"))
        np.save(raw, values[0].float().numpy())
        if values.dim() != 4:
            return [str(raw)]
        width, height = item.picture.size
        squares = viz.squares(heat(values)[0], (height, width))
        total = float(values.double().sum())
        subtitle = f"relevance there sums to {total:.6f} of {score:.6f} · each value of the layer's map is a rectangle"
        viz.save(viz.side_by_side(item.picture, squares, title=layer, subtitle=subtitle, score=score), picture)
        return [str(picture), str(raw)]

    def _about(self, result: Relevance, loaded: LoadedModel, item: Item) -> dict[str, Any]:
        """Say what a reader of the result will want to know; `relprop report` does."""
        from relprop.sessions import top_classes

        return {
            "class": explained(result, loaded, item),
            "model": loaded.name,
            "weights": loaded.source,
            "composite": self.composite,
            "drawn_after": self.spec,
            **({} if self.combine is None else {"combine": self.combine}),
            "top": top_classes(loaded, result.probabilities[0]),
            "command": console.typed(),
        }


def unsaid(loaded: LoadedModel) -> list[str]:
    """What a checkpoint did not say and its user may know: how images were prepared, and how classes are called."""
    found = []
    prepare = loaded.preprocess
    taken = {
        "size": f"--size {prepare.size}",
        "mean": f"--mean {','.join(f'{value:g}' for value in prepare.mean)}",
        "std": f"--std {','.join(f'{value:g}' for value in prepare.std)}",
    }
    if loaded.guessed:
        options = " ".join(taken[key] for key in loaded.guessed)
        found.append(f"the file does not say how images are prepared; taken was {options}: give those of the training")
    if loaded.classes is None:
        found.append("the classes have no names; --classes FILE gives them, one a line, or the folder of the training")
    return found


def explained(result: Relevance, loaded: LoadedModel, item: Item) -> str:
    """What was explained of an image: the class by name, or the two of a contrast."""
    if item.target is not None and item.against is not None:
        return f"{loaded.class_name(item.target)} rather than {loaded.class_name(item.against)}"
    return loaded.class_name(int(result.target[0]))


def _score_of(method: str, result: Relevance) -> float | None:
    """The score that an explainer shares among pixels: what its relevance starts from; None of one that has no such."""
    from relprop.explainers import EXPLAINERS

    start = getattr(EXPLAINERS.build(method), "start", None)
    if start not in ("probability", "logit"):
        return None
    values = result.logits if start == "logit" else result.probabilities
    return float(values[0, int(result.target[0])])


def _next_classes(result: Relevance, loaded: LoadedModel) -> str:
    """The three most probable classes beside the one that was explained, on a line of its own."""
    from relprop.sessions import top_classes

    if result.what or result.link == "sigmoid":
        return ""
    top = top_classes(loaded, result.probabilities[0], 4)
    found = [(name, share) for at, name, share in top if at != int(result.target[0])][:3]
    return "next: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in found) + "\n" if found else ""


def _others(text: str | None, plain: bool, start: str) -> tuple[str, ...]:
    """Read `--compare`; without it, lrp-cuts stands beside the paper's map of a class, with the same start."""
    from relprop.explainers import EXPLAINERS

    if text is None:
        cuts = "lrp-cuts" if start == "probability" else f"lrp-cuts:start={start}"
        return (cuts,) if plain else ()
    found = tuple(dict.fromkeys(options.listed(text)))
    if found == ("none",):
        return ()
    for name in found:
        EXPLAINERS.build(name)
    return found


def _size(result: Relevance) -> str:
    """The probability that was explained, or the difference of two."""
    if result.what:
        return f"difference {float(result.score[0]):+.4f}"
    return f"{100 * float(result.probability[0]):.1f} %"


def _formats(text: str) -> tuple[str, ...]:
    """Read `--format`."""
    found = tuple(dict.fromkeys(options.listed(text.lower())))
    if not found or not set(found) <= {"png", "npy", "npz", "csv"}:
        raise UsageError(f"--format takes png, npy, npz and csv, with commas; not {text!r}")
    return found


def _row(item: Item, result: Relevance, view: View, job: Job) -> dict[str, Any]:
    """Say in numbers what was explained, and where its relevance went."""
    from relprop.report.pictures import half_on
    from relprop.viz.colour import as_map

    assert result.ledger is not None  # LRP keeps a ledger by default
    heatmap = view.heatmap(result)
    total = heatmap.double().sum((1, 2))
    said = result.ledger.conservation(None if view.combine is None else total)
    target, predicted = int(result.target[0]) if item.target is None else item.target, int(result.logits[0].argmax())
    probabilities = result.probabilities[0]
    return {
        "image": item.name if item.source is None else str(item.source),
        "name": item.name,
        "target": target,
        "class": explained(result, job.loaded, item),
        **({} if item.against is None else {"against": item.against}),
        "probability": float(probabilities[target]),
        "predicted": predicted,
        "predicted_class": job.loaded.class_name(predicted),
        "score": float(result.score[0]),
        "sum": float(total[0]),
        "gap": result.ledger.gap,
        "absorbed": result.ledger.absorbed,
        "conservation": said.document(),
        "half_on": half_on(as_map(heatmap[0])),
    }


def _print(rows: list[dict[str, Any]], start: str, view: View) -> None:
    """Print one line an image, the two statements on conservation, then the files."""
    from relprop.core.backward.ledger import Conservation
    from relprop.core.result.region import sentence

    contrast = any("against" in row for row in rows)
    wanted = {
        "score": start == "logit" or contrast,
        "predicted": any(row["target"] != row["predicted"] for row in rows),
    }
    cells = [{name: cell for name, cell in _cells(row).items() if wanted.get(name.lstrip(">"), True)} for row in rows]
    made = console.table(*cells[0])
    for line in cells:
        made.add_row(*line.values())
    console.show(made)
    worst = max((row["conservation"]["absorbed_of_score"] for row in rows), key=abs)
    console.statements(Conservation(max(row["gap"] for row in rows), worst))
    for row in rows:
        for region in row.get("regions", ()):
            prefix = f"{row['name']}: " if len(rows) > 1 else ""
            console.out.print(console.escape(prefix + sentence(region)), soft_wrap=True)
    files = [file for row in rows for file in row["files"]]
    if len(rows) > 4:
        kinds = ", ".join(f"NAME.{kind}" for kind in view.formats)
        files = [f"{view.out}: {kinds} and NAME/ for {len(rows)} images"]
    if len(rows) > 1 and "png" in view.formats:
        from relprop.report.render import INDEX

        files.append(str(view.out / INDEX))
    for file in files:
        console.wrote(file)
    if view.spec != "none":
        console.out.print(
            f"pictures are drawn after {view.spec}, files hold the raw heatmap; --post none draws it", soft_wrap=True
        )


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """One line of the table, by column."""
    return {
        "image": console.escape(Path(row["image"]).name),
        "class": console.escape(row["class"]),
        ">probability": f"{100 * row['probability']:.1f} %",
        ">score": f"{row['score']:.6f}",
        "predicted": console.escape(row["predicted_class"]),
        ">Σ relevance": number(row["sum"]),
        ">largest leak": f"{row['gap']:.1e}",
        ">half of it on": f"{100 * row['half_on']:.1f} %",
    }
