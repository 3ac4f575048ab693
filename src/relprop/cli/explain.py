"""`relprop explain`: pictures, raw heatmaps and books for images."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from relprop import Relevance
    from relprop.cli.batches import Item, Job
    from relprop.models import LoadedModel

Quantize = Annotated[
    int | None,
    typer.Option(min=1, help="Draw the heatmap in this many levels (Heat Quantization, Eq. 8); the paper takes 8."),
]
Post = Annotated[
    str,
    typer.Option(
        help="What the picture shows of the heatmap: none (all of it), smooth:1.5, positive, ...; files keep it raw."
    ),
]
ReadingSpec = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Rules",
        help="Read the map from several cuts, as lrp-cuts does: default, a FILE of relprop tune, or weights "
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
        show_default="paper, or the reading's own",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")]


def explain(
    images: options.Images = None,
    model: options.Model = None,
    recursive: options.Recursive = False,
    target: options.Target = None,
    composite: Composite = None,
    reading: ReadingSpec = None,
    split: options.Split = None,
    identity: options.Identity = None,
    start: options.Start = "probability",
    quantize: Quantize = None,
    post: Post = "none",
    out: Out = Path("relprop-out"),
    batch_size: options.BatchSize = 8,
    arch: options.Arch = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    device: options.Device = "auto",
    trust: options.Trust = False,
    json: options.Json = False,
) -> int:
    """Explain images: which pixels the probability of a class comes from.

    For each image NAME it writes NAME.png (the image beside its relevance), NAME.npy (the raw heatmap, float32)
    and NAME/ (relevance per channel and a manifest). Without images it explains the bundled photograph. With --reading
    the heatmap is read from several cuts of the network (explainer lrp-cuts), and NAME/ holds their relevance too.

    Exit code 1 if some images could not be read; the others are done, and those are listed.
    """
    from relprop import LRP
    from relprop.cli import batches
    from relprop.explainers import POST
    from relprop.explainers.cuts import find_reading

    read = None if reading is None else find_reading(reading)
    spec = composite or ("paper" if read is None else read.composite)
    view = View(
        out,
        POST.build(post),
        post,
        quantize,
        options.full_spec(spec, split, identity),
        None if read is None else read.text,
    )
    rules = options.composite(spec, split, identity)
    place = options.choose_device(device)
    loaded = options.load(model, arch=arch, size=size, mean=mean, std=std, device=place, trust=trust)
    items = batches.find_items(images, target, loaded.classes, recursive=recursive)
    out.mkdir(parents=True, exist_ok=True)
    lrp = LRP(loaded.model, composite=rules, keep=() if read is None else [*read.weights])
    job = batches.Job(loaded, lrp, items, batch_size, place, start)
    rows = []
    for ready, result in job.results():
        for item, single in zip(ready, batches.split(result.cpu()), strict=True):
            if single.relevance.isfinite().all():
                rows.append(_row(item, single, view.heatmap(single), job) | {"files": view.write(item, single, loaded)})
            else:
                job.fail(item, f"the relevance is not finite: {spec!r} diverges on this network; paper does not")
    job.require(len(rows))
    if json:
        document = {"model": loaded.name, "source": loaded.source, "composite": view.composite, "start": start}
        document |= {} if view.reading is None else {"reading": view.reading}
        console.print_json({**document, "images": rows, "failures": job.failed()})
    else:
        console.heading(f"{loaded.name} · {view.rules}")
        _print(rows, start, out)
        job.report()
    return 1 if job.failures else 0


@dataclass(frozen=True)
class View:
    """How results are drawn and where they go.

    Attributes:
        out: folder.
        post: what the picture shows of a heatmap, and `spec`, how that was written.
        quantize: levels of the drawn heatmap, None for a continuous one.
        composite: spec of the rules, for the caption.
        reading: weights of the cuts that the heatmap is read from; None for the pixels alone.
    """

    out: Path
    post: Callable[[Tensor], Tensor]
    spec: str
    quantize: int | None
    composite: str
    reading: str | None = None

    @property
    def rules(self) -> str:
        """The rules, and the cuts if several were read, for captions."""
        return self.composite if self.reading is None else f"{self.composite} · {self.reading}"

    def heatmap(self, result: Relevance) -> Tensor:
        """The map (N, H, W) of a result: at the pixels, or read from several cuts."""
        from relprop.core.cuts import parse_reading

        return result.heatmap if self.reading is None else result.read(parse_reading(self.reading))

    def write(self, item: Item, result: Relevance, loaded: LoadedModel) -> list[str]:
        """Write the picture, the raw heatmap and the whole result of one image; returns their paths."""
        import numpy as np

        from relprop import quantize, viz
        from relprop.report.saved import annotate

        picture, raw, whole = (self.out / f"{item.name}{suffix}" for suffix in (".png", ".npy", ""))
        heatmap = self.heatmap(result)
        drawn = self.post(heatmap)
        drawn = drawn if self.quantize is None else quantize(drawn, self.quantize)
        score, total = float(result.score[0]), float(heatmap.double().sum())
        caption = f"{loaded.name} · {self.rules} · relevance sums to {total:.6f} of {score:.6f}"
        figure = viz.side_by_side(
            item.picture,
            drawn[0],
            title=f"{loaded.class_name(int(result.target[0]))}   {100 * float(result.probability[0]):.1f} %",
            subtitle=caption if self.spec == "none" else f"{caption} · drawn after {self.spec}",
            score=score,
            levels=self.quantize is not None or self.spec.startswith("quantize"),
        )
        viz.save(figure, picture)
        np.save(raw, heatmap[0].float().numpy())
        result.save(whole)
        annotate(whole, item.picture, self._about(result, loaded))
        return [str(picture), str(raw), str(whole)]

    def _about(self, result: Relevance, loaded: LoadedModel) -> dict[str, Any]:
        """Say what a reader of the result will want to know; `relprop report` does."""
        from relprop.report.study import top_classes

        return {
            "class": loaded.class_name(int(result.target[0])),
            "model": loaded.name,
            "weights": loaded.source,
            "composite": self.composite,
            **({} if self.reading is None else {"reading": self.reading}),
            "top": top_classes(loaded, result.logits[0]),
            "command": shlex.join(["relprop", *sys.argv[1:]]),
        }


def _row(item: Item, result: Relevance, heatmap: Tensor, job: Job) -> dict[str, Any]:
    """Say in numbers what was explained, and where its relevance went."""
    assert result.ledger is not None  # LRP keeps the books unless told not to
    target, predicted = int(result.target[0]), int(result.logits[0].argmax())
    return {
        "image": item.name if item.source is None else str(item.source),
        "target": target,
        "class": job.loaded.class_name(target),
        "probability": float(result.probability[0]),
        "predicted": predicted,
        "predicted_class": job.loaded.class_name(predicted),
        "score": float(result.score[0]),
        "sum": float(heatmap.double().sum()),
        "gap": result.ledger.gap,
        "absorbed": result.ledger.absorbed,
        "half_on": concentration(heatmap[0]),
    }


def concentration(heatmap: Tensor) -> float:
    """Return the fraction of pixels that together hold half of the absolute relevance; an even map gives 0.5."""
    sizes = heatmap.double().abs().flatten().sort(descending=True).values
    if not sizes.sum() > 0:
        return 1.0
    held = sizes.cumsum(0) / sizes.sum()
    return (int((held < 0.5 - 1e-12).sum()) + 1) / len(sizes)


def _print(rows: list[dict[str, Any]], start: str, out: Path) -> None:
    """Print one line an image, then the files."""
    wanted = {
        "logit": start == "logit",
        "predicted": any(row["target"] != row["predicted"] for row in rows),
        "absorbed": any(row["absorbed"] != 0 for row in rows),
    }
    cells = [{name: cell for name, cell in _cells(row).items() if wanted.get(name.lstrip(">"), True)} for row in rows]
    made = console.table(*cells[0])
    for line in cells:
        made.add_row(*line.values())
    console.show(made)
    files = [file for row in rows for file in row["files"]]
    if len(rows) > 4:
        files = [f"{out}: NAME.png, NAME.npy and NAME/ for {len(rows)} images"]
    for file in files:
        console.out.print(f"[{console.GOOD}]→[/] [{console.FILE}]{console.escape(file)}[/]", soft_wrap=True)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """One line of the table, by column."""
    return {
        "image": console.escape(Path(row["image"]).name),
        "class": console.escape(row["class"]),
        ">probability": f"{100 * row['probability']:.1f} %",
        ">logit": f"{row['score']:.6f}",
        "predicted": console.escape(row["predicted_class"]),
        ">Σ relevance": console.number(row["sum"]),
        ">gap": f"{row['gap']:.1e}",
        ">absorbed": f"{row['absorbed']:.1e}",
        ">half of it on": f"{100 * row['half_on']:.1f} % of pixels",
    }
