"""`relprop train`: train or fine-tune a network by a recipe, and go on where a killed run stopped."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options
from relprop.errors import UsageError, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relprop.data import Dataset
    from relprop.training import Finished, Recipe, Report, Row

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="cub, cub-released, cifar10, or folder:ROOT.")]
Data = Annotated[str | None, typer.Option(help="Training pictures, e.g. cub:/data/CUB_200_2011:split=train.")]
Test = Annotated[str | None, typer.Option(help="Pictures to measure once at the end, e.g. parquet:test.parquet.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the results.", show_default="runs/RECIPE")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Seed; repeat it for several runs.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Change a setting of the recipe; repeat it. See --show."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Devices = Annotated[int, typer.Option(min=1, help="How many of them; torchrun works too.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode pictures; 0: none beside this one.")]


def train(
    recipe: RecipeName,
    data: Data = None,
    test: Test = None,
    out: Out = None,
    seed: Seeds = None,
    settings: Settings = None,
    device: Device = "auto",
    devices: Devices = 1,
    workers: Workers = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget a run that --out holds, and start again.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with all its settings, and stop.")] = False,
    json: options.Json = False,
) -> int:
    """Train a network by a recipe; the same command again resumes a run that was stopped.

    Each seed gets a folder of its own with model.safetensors, its model card, metrics.jsonl and curve.png.
    The weights serve every command as --model FOLDER/model.safetensors.
    """
    from relprop.training import RECIPES, override

    chosen = override(RECIPES.build(recipe), *(settings or ()))
    if show:
        console.print_json(chosen.to_json()) if json else console.out.print(str(chosen), markup=False, soft_wrap=True)
        return 0
    seeds = seed or list(chosen.seeds)
    if devices > 1 and len(seeds) > 1:
        raise UsageError(f"on {devices} devices one seed is trained at a time; give --seed once for each of {seeds}")
    pictures, tested = _open(chosen, data or chosen.data, test or chosen.test)
    folder = out or Path("runs") / chosen.name
    results = []
    for number in seeds:
        run = folder / f"seed-{number}"
        if fresh:  # nothing is left that `train` would go on with
            for path in (run / "checkpoint.json", *run.glob("checkpoint-*.safetensors")):
                path.unlink(missing_ok=True)
        finished = _run(chosen, pictures, run, seed=number, device=device, devices=devices, workers=workers)
        if finished is not None:  # None in all processes but the first
            results.append(_conclude(chosen, tested, number, finished))
    if json and results:
        console.print_json({"recipe": chosen.to_json(), "runs": results})
    elif results:
        console.show(_table(results))
    return 0


def _open(recipe: Recipe, data: str, test: str) -> tuple[Dataset, Dataset | None]:
    """Open the training and test pictures, both before hours are spent on training."""
    from relprop.data import open_dataset

    if not data:
        kind = recipe.name.removesuffix("-released")
        example = {"cub": "cub:/data/CUB_200_2011:split=train"}.get(kind, f"{kind}:ROOT:split=train")
        raise UsageError(f"the recipe {recipe.name!r} does not say where its pictures are; add --data {example}")
    return open_dataset(data), open_dataset(test) if test else None


def _run(recipe: Recipe, pictures: Dataset, out: Path, **options: Any) -> Finished | None:
    """Train, with a bar for the steps of an epoch and a line for each epoch."""
    import logging

    from relprop.training import Finished, Step, train

    require("lightning_fabric", "train")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # importing it has set INFO
    finished = None
    with _bar(f"seed {options['seed']}") as advance:
        for event in train(recipe, pictures, out, **options):
            if isinstance(event, Step):
                advance(event, recipe.epochs)
            elif isinstance(event, Finished):
                finished = event
            else:
                console.err.print(_line(event, recipe.epochs), soft_wrap=True)
    return finished


@contextmanager
def _bar(title: str) -> Iterator[Callable[[Any, int], None]]:
    """Show steps, pictures a second, the loss, and the time that the run still needs at most."""
    import time

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    text = TextColumn("{task.fields[rate]} pictures/s  loss {task.fields[loss]}  {task.fields[left]} left")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text)
    began, seen, done = time.perf_counter(), 0, 0.0
    with Progress(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as progress:
        task = progress.add_task(title, total=None, rate="?", loss="?", left="?")

        def advance(step: Any, epochs: int) -> None:
            nonlocal seen, done
            seen, done = seen + step.pictures, done + 1 / step.steps
            spent = time.perf_counter() - began
            left = (epochs - step.epoch - (step.step + 1) / step.steps) * spent / done
            progress.update(
                task,
                description=f"{title}, epoch {step.epoch + 1}/{epochs}",
                completed=step.step + 1,
                total=step.steps,
                rate=f"{seen / spent:.0f}",
                loss=f"{step.loss:.3f}",
                left=console.duration(left),
            )

        yield advance


def _line(row: Row, epochs: int) -> str:
    """One epoch in a line."""
    parts = [f"epoch {row.epoch + 1:>3}/{epochs}", f"lr {row.lr:.2g}"]
    parts.append(f"training loss {row.train_loss:.4f}, {row.train_accuracy:.1%}")
    if row.val_loss is not None and row.val_accuracy is not None:
        parts.append(f"validation loss {row.val_loss:.4f}, {row.val_accuracy:.1%}")
    parts.append(f"{row.pictures_per_second:.0f} pictures/s")
    return "   ".join(parts)


def _conclude(recipe: Recipe, tested: Dataset | None, seed: int, finished: Finished) -> dict[str, Any]:
    """Measure the file that was written, and write its card and its curve beside it."""
    from relprop.files import write_bytes
    from relprop.models import load_model
    from relprop.training import card, draw_curve, measure

    folder, kept = finished.weights.parent, finished.rows[finished.kept]
    report: Report | None = measure(finished.weights, tested, arch=recipe.arch) if tested is not None else None
    classes = load_model(str(finished.weights), arch=recipe.arch).classes or ()
    title = f"{recipe.name}, seed {seed}"
    text = card(title, recipe, seed, console.typed(), finished.rows, finished.kept, classes, report)
    write_bytes(folder / "model.md", text.encode())
    draw_curve(folder / "curve.png", finished.rows, finished.kept, title)
    return {
        "seed": seed,
        "epochs": len(finished.rows),
        "kept": finished.kept + 1,
        "validation_accuracy": kept.val_accuracy,
        "test_accuracy": None if report is None else report.accuracy,
        "weights": str(finished.weights),
    }


def _table(results: list[dict[str, Any]]) -> Any:
    """One line a seed, and the mean and standard deviation of several."""
    from statistics import mean, stdev

    made = console.table(">seed", ">epochs", ">kept", ">validation", ">test", "weights")
    for row in results:
        rates = (_percent(row["validation_accuracy"]), _percent(row["test_accuracy"]))
        made.add_row(str(row["seed"]), str(row["epochs"]), str(row["kept"]), *rates, console.escape(row["weights"]))
    if len(results) > 1:
        cells = []
        for name in ("validation_accuracy", "test_accuracy"):
            values = [100 * row[name] for row in results if row[name] is not None]
            cells.append(f"{mean(values):.2f} ± {stdev(values):.2f} %" if len(values) > 1 else "")
        made.add_row("mean", "", "", *cells, f"standard deviation over {len(results)} seeds")
    return made


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"
