"""`relprop summary`: the table of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from relprop.cli import console

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of `relprop evaluate`.")]
Format = Annotated[Literal["text", "markdown", "csv", "latex"], typer.Option("--format", "-f")]
Versus = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Add paired differences to this explainer, e.g. grad-cam or lrp+quantize:8."),
]


def summary(run: Run, format: Format = "text", versus: Versus = None) -> int:
    """Print mean, standard error, n and failures of a run, finished or not, controls among them.

    Every shard is verified; rows of damaged ones, and of other runs, are left out, with a warning and exit code 1.
    """
    from relprop.evaluation.store import open_run, summary_of

    found = summary_of(open_run(run), versus)
    console.write(found.format(format))
    for sentence in found.left_out:
        console.warn(sentence)
    return 1 if found.left_out else 0
