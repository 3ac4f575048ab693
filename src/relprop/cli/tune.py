"""`relprop tune`: choose what `lrp-cuts` reads, on some images, and say what that is worth on others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli import console, options
from relprop.errors import UsageError

if TYPE_CHECKING:
    from relprop.tuning import Tuned

Data = Annotated[str, typer.Option("--data", "-d", help="Labelled images: folder:ROOT, parquet:FILE, ...")]
Samples = Annotated[int, typer.Option("--samples", "-n", min=2, help="Images to choose on.")]
Report = Annotated[int, typer.Option("--report", min=1, help="Other images, to measure the choice on.")]
Folds = Annotated[int, typer.Option(min=2, help="Of the cross-validation over the images to choose on.")]
Seed = Annotated[int, typer.Option(help="Of the choice of images, and of the folds.")]
References = Annotated[str, typer.Option(help="Explainers to compare the choice with, with commas.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File for the layer weights and their provenance.")]


def tune(
    *,
    data: Data,
    model: options.Model = None,
    samples: Samples = 100,
    report: Report = 100,
    folds: Folds = 5,
    step: options.Step = None,
    seed: Seed = 0,
    references: References = "lrp-cuts,grad-cam,lrp",
    out: Out = Path("weights.json"),
    batch_size: options.BatchSize = 16,
    amp: options.Amp = False,
    network: options.Network,
    json: options.Json = False,
) -> int:
    """Choose the layers, weights and rules of lrp-cuts for a model by Insertion - Deletion under the fair protocol.

    The choice is made on --samples images, cross-validated, and measured on --report others. The file that it writes
    names both, and is used as `--explainers lrp-cuts:weights=FILE`.
    """
    if out.suffix != ".json":
        raise UsageError(f"--out must end in .json, by which weights are known to be a file; not {str(out)!r}")
    from relprop.data import open_dataset
    from relprop.tuning import Settings
    from relprop.tuning import tune as choose

    compared = options.listed(references)
    settings = Settings(samples, report, folds, step, seed, references=compared, batch=batch_size, amp=amp)
    pictures = open_dataset(data)
    loaded = network.load(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with console.progress("measuring", samples + report) as advance:
        tuned = choose(loaded, pictures, settings, lambda _, images: advance(images))
    tuned.weights.save(out)
    if json:
        console.print_json({"file": str(out), **asdict(tuned.weights)})
    else:
        _print(tuned, out, loaded.name)
    return 0


def _print(tuned: Tuned, out: Path, model: str) -> None:
    """Print the choice, what the cross-validation says, and the comparison on other images."""
    console.heading(f"{model} · {tuned.weights.text} · {tuned.weights.composite}")
    made = console.table("map", ">ID", ">± s.e.", ">chosen less it", ">± s.e.")
    for line in tuned.report:
        own = line.explainer == "chosen"
        difference = ["", ""] if own else [f"{line.difference:+.4f}", _number(line.difference_error)]
        made.add_row(console.escape(line.explainer), f"{line.mean:.4f}", _number(line.error), *difference)
    console.show(made)
    kept = sum(choice == tuned.validation.choice for choice in tuned.validation.choices)
    console.out.print(
        f"ID {tuned.validation.mean:.4f} where each fold is scored by the choice made without it; "
        f"{kept} of {len(tuned.validation.choices)} folds choose the same"
    )
    console.wrote(out)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
