"""`relprop evaluate`: measure explanations on a data set, in a run that resumes and scales."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relprop.cli import console, options
from relprop.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relprop.evaluation import Plan
    from relprop.evaluation.store import Store

_what = partial(typer.Option, rich_help_panel="What is measured")

Data = Annotated[str, _what("--data", "-d", help="imagenet:ROOT, cub:ROOT, folder:ROOT, parquet:FILE or cifar10:ROOT.")]
Explainers = Annotated[str, _what("--explainers", "-e", help="Specs with commas, e.g. lrp,grad-cam; or all.")]
Post = Annotated[str, _what(help="Post-processing, e.g. none,quantize:8.")]
Metrics = Annotated[str, _what(help="Specs with commas.")]
Protocol = Annotated[str, _what(help="How pixels are masked: fair, paper-protocol, or both.")]
Samples = Annotated[
    int | None, typer.Option("--samples", "-n", min=1, help="How many, equally many of each class.", show_default="all")
]
Seed = Annotated[int, typer.Option(help="Of the choice of samples, and of whatever is drawn.")]
Explained = Annotated[
    Literal["predicted", "label"], typer.Option("--target", help="Explain the predicted class, or the label.")
]
Controls = Annotated[bool, _what("--controls/--no-controls", help="Add the explainers constant and random.")]
Curves = Annotated[bool, _what("--curves", help="Keep the curves behind the scores.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory.", show_default="runs/PLAN-DIGEST")]
Threads = Annotated[int, options.scores(min=1, help="Of each worker. Decides the last bits of the rows.")]


def evaluate(
    *,
    data: Data,
    model: options.Model = None,
    explainers: Explainers = "lrp",
    post: Post = "none",
    metrics: Metrics = "insertion-deletion",
    protocol: Protocol = "fair",
    step: options.Step = None,
    samples: Samples = None,
    seed: Seed = 0,
    target: Explained = "predicted",
    controls: Controls = True,
    curves: Curves = False,
    amp: options.Amp = False,
    out: Out = None,
    workers: options.Workers,
    batch_size: options.BatchSize = 16,
    threads: Threads = 1,
    network: options.Network,
) -> int:
    """Measure explanations on a data set; killed at any moment, the same command goes on with it.

    Every sample, explainer, post-processing and metric gives a row, in Parquet files in the run directory. What cannot
    be computed is a row with the reason. Pictures that relprop tune chose layer weights on are left out. Exit code 1 if
    some pictures could not be read.
    """
    from relprop.evaluation import Plan, with_controls
    from relprop.explainers import EXPLAINERS

    # on a cluster the workers' machines have the device, and not necessarily this one
    device = network.chosen_device() if workers.ray is None or network.device == "auto" else network.device
    chosen = specs(explainers, EXPLAINERS.names())
    plan = Plan(
        model=network.spec(model),
        data=absolute(data),
        explainers=with_controls(chosen) if controls else chosen,
        post=specs(post),
        metrics=specs(metrics),
        protocols=specs(protocol),
        step=step,
        samples=samples,
        seed=seed,
        target=target,
        batch=batch_size,
        threads=threads,
        device=device.split(":")[0],
        curves=curves,
        amp=amp,
    )
    return _measure(plan, out or Path("runs") / plan.digest, device, workers)


def execute(plan: Plan, out: Path, device: str, workers: options.Workers, what: str = "samples") -> Store:
    """Run a plan on this machine or on Ray, with a bar that says how far it is."""
    from relprop.evaluation.local import run

    with progress(what) as report:
        how: dict[str, Any] = {"command": ["relprop", *sys.argv[1:]], "report": report, "warn": console.warn}
        if workers.ray is None:
            return run(plan, out, workers=workers.workers or 1, device=device, **how)
        from relprop.evaluation.ray import run_ray

        return run_ray(plan, out, address=workers.ray, workers=workers.workers, **how)


def _measure(plan: Plan, out: Path, device: str, workers: options.Workers) -> int:
    """Run the plan, and print its table."""
    from relprop.evaluation.store import manifest, summary_of

    console.err.print(
        f"[{console.QUIET}]run directory[/] [{console.FILE}]{console.escape(str(out))}[/]", soft_wrap=True
    )
    summary = summary_of(execute(plan, out, device, workers))
    console.write(summary.format("text"))
    if used := manifest(out).get("left_out"):
        console.err.print(f"[{console.QUIET}]left out[/] {used} pictures that layer weights of lrp-cuts were chosen on")
    return 1 if summary.unread or summary.left_out else 0


def specs(text: str, every: Sequence[str] = ()) -> tuple[str, ...]:
    """Split a comma list; `all` stands for every one there is."""
    if every and text.strip() == "all":
        return tuple(every)
    found = options.listed(text)
    if not found:
        raise UsageError(f"{text!r} is an empty list; give names with commas between them")
    return found


def absolute(data: str) -> str:
    """Make the root of a data set absolute, so that workers elsewhere find it and the plan means one thing."""
    kind, colon, rest = data.partition(":")
    root, *given = rest.split(":")
    return ":".join([kind, str(Path(root).expanduser().absolute()), *given]) if colon and root else data


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show samples done, rate and remaining time on standard error; a line every half minute if it is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    show: dict[str, Any] = {"console": console.err, "transient": True, "disable": not console.err.is_terminal}
    said = time.monotonic()
    with Progress(*columns, **show, speed_estimate_period=3600) as bar:  # a chunk may take minutes
        bar.add_task("", total=None, rate="")
        task = bar.tasks[0]

        def report(done: int, total: int) -> None:
            nonlocal said
            bar.update(task.id, completed=done, total=total)
            rate = f"{task.speed:.2f} samples/s" if task.speed else ""
            bar.update(task.id, rate=rate)
            if rate and not console.err.is_terminal and time.monotonic() - said >= 30:
                said = time.monotonic()
                left = console.duration(task.time_remaining or 0)
                console.err.print(f"{done} of {total} samples, {rate}, {left} left", soft_wrap=True)

        yield report
