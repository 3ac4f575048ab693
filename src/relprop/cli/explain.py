"""`relprop explain`: pictures, raw heatmaps and books for images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from torch import Tensor

    from relprop import Relevance
    from relprop.cli.batches import Item, Job

Quantize = Annotated[
    int | None,
    typer.Option(min=1, help="Draw the heatmap in this many levels (Heat Quantization, Eq. 8); the paper takes 8."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")]


def explain(
    images: options.Images = None,
    model: options.Model = None,
    recursive: options.Recursive = False,
    target: options.Target = None,
    composite: options.Composite = "paper",
    split: options.Split = None,
    identity: options.Identity = None,
    start: options.Start = "probability",
    quantize: Quantize = None,
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
    and NAME/ (relevance per channel and a manifest). Without images it explains the bundled photograph.

    Exit code 1 if some images could not be read; the others are done, and those are listed.
    """
    from relprop import LRP
    from relprop.cli import batches

    rules = options.composite(composite, split, identity)
    place = options.choose_device(device)
    loaded = options.load(model, arch=arch, size=size, mean=mean, std=std, device=place, trust=trust)
    items = batches.find_items(images, target, loaded.classes, recursive=recursive)
    out.mkdir(parents=True, exist_ok=True)
    job = batches.Job(loaded, LRP(loaded.model, composite=rules), items, batch_size, place, start)
    described = f"{loaded.name} · {options.full_spec(composite, split, identity)}"
    rows = [
        _write(job, item, single, out, quantize, described)
        for ready, result in job.results()
        for item, single in zip(ready, batches.split(result.cpu()), strict=True)
    ]
    if json:
        document = {"model": loaded.name, "source": loaded.source, "composite": repr(rules), "start": start}
        console.print_json({**document, "images": rows, "failures": job.failed()})
    else:
        _print(rows, job, described, out)
        job.report()
    return 1 if job.failures else 0


def _write(job: Job, item: Item, result: Relevance, out: Path, quantize: int | None, described: str) -> dict[str, Any]:
    """Write the files of one image; returns its row."""
    import numpy as np

    from relprop import viz

    picture, raw, whole = out / f"{item.name}.png", out / f"{item.name}.npy", out / item.name
    heatmap = result.heatmap[0]
    row = _row(item, result, job) | {"files": [str(picture), str(raw), str(whole)]}
    drawn = viz.side_by_side(
        item.picture,
        heatmap if quantize is None else result.quantized(levels=quantize)[0],
        title=f"{row['class']}   {_chance(row)}",
        subtitle=f"{described} · relevance sums to {row['sum']:.6f} of {row['score']:.6f}",
        score=row["score"],
        levels=quantize is not None,
    )
    viz.save(drawn, picture)
    np.save(raw, heatmap.float().numpy())
    result.save(whole)
    return row


def _row(item: Item, result: Relevance, job: Job) -> dict[str, Any]:
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
        "sum": float(result.relevance.double().sum()),
        "gap": result.ledger.gap,
        "absorbed": result.ledger.absorbed,
        "half_on": concentration(result.heatmap[0]),
    }


def concentration(heatmap: Tensor) -> float:
    """Return the fraction of pixels that together hold half of the absolute relevance; an even map gives 0.5."""
    sizes = heatmap.double().abs().flatten().sort(descending=True).values
    if not sizes.sum() > 0:
        return 1.0
    held = sizes.cumsum(0) / sizes.sum()
    return (int((held < 0.5 - 1e-12).sum()) + 1) / len(sizes)


def _chance(row: dict[str, Any]) -> str:
    return f"{100 * row['probability']:.1f} %"


def _print(rows: list[dict[str, Any]], job: Job, described: str, out: Path) -> None:
    """Print one line an image, then the files."""
    logit, absorbs = job.start == "logit", any(row["absorbed"] > 0 for row in rows)
    other = any(row["target"] != row["predicted"] for row in rows)
    columns = ["image", "class", ">probability", *([">logit"] if logit else []), *(["predicted"] if other else [])]
    made = console.table(
        *columns, ">Σ relevance", ">gap", *([">absorbed"] if absorbs else []), ">half of it on", title=described
    )
    for row in rows:
        cells = [console.escape(Path(row["image"]).name), console.escape(row["class"]), _chance(row)]
        cells += [f"{row['score']:.6f}"] if logit else []
        cells += [console.escape(row["predicted_class"])] if other else []
        cells += [f"{row['sum']:.6f}", f"{row['gap']:.1e}"] + ([f"{row['absorbed']:.1e}"] if absorbs else [])
        made.add_row(*cells, f"{100 * row['half_on']:.1f} % of pixels")
    console.show(made)
    files = [file for row in rows for file in row["files"]]
    if len(rows) > 4:
        files = [f"{out}: NAME.png, NAME.npy and NAME/ for {len(rows)} images"]
    for file in files:
        console.out.print(f"[{console.GOOD}]→[/] [{console.FILE}]{console.escape(file)}[/]", soft_wrap=True)
