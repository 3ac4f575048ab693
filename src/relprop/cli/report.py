"""`relprop report`: one HTML file with pictures, conservation, scores and curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from relprop.cli import console, options
from relprop.errors import InputError, UsageError

if TYPE_CHECKING:
    from relprop.cli.batches import Item
    from relprop.models import LoadedModel
    from relprop.report.document import Report

_IMAGES = "If images are given"

Sources = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUN_OR_RESULTS...",
        help="A run of `relprop evaluate`, folders that `relprop explain` wrote, or images; none for the bundled "
        "photograph.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")]
Pictures = Annotated[
    int, typer.Option(min=0, help="Of a run: how many of its pictures to explain again and show; 0 for none.")
]
Explainers = Annotated[
    str,
    typer.Option(
        "--explainers", "-e", rich_help_panel=_IMAGES, help="Set beside relevance, specs with commas; or none."
    ),
]


def report(
    *,
    sources: Sources = None,
    out: Out = Path("report.html"),
    pictures: Pictures = 4,
    explainers: Explainers = "grad-cam,guided-backprop,input-x-gradient",
    target: options.Target = None,
    composite: options.Composite = "paper",
    joins: options.Joins,
    start: options.Start = "probability",
    recursive: options.Recursive = False,
    model: options.Model = None,
    network: options.Network,
    classes: options.Classes = None,
) -> int:
    """Write a report that anybody can open: one HTML file, no network, no script.

    Of a run: scores beside controls, curves if the run kept them, some of its pictures, the plan. Of results and
    images: the maps of all methods side by side on one scale, and the conservation ledger. Exit code 1 if some images
    could not be read, or shards of the run are damaged or not its own; the report holds the others.
    """
    from relprop.cli.batches import find_items, load_for
    from relprop.report.of_run import report_of_run
    from relprop.report.render import write
    from relprop.report.saved import is_run, report_of_results, results_in

    given = sources or []
    runs, results = [path for path in given if is_run(path)], [path for path in given if results_in(path)]
    if runs and len(given) > 1:
        raise UsageError(f"a report is of one run, or of results; {len(given)} sources were given, {runs[0]} is a run")
    if results and len(results) < len(given):
        odd = next(path for path in given if path not in results)
        raise UsageError(f"{results[0]} holds results and {odd} does not; give results, or images, not both")
    device, failed = network.chosen_device(), 0
    if runs:
        with console.waiting("reading the run, explaining some of its pictures"):
            made = report_of_run(runs[0], pictures=pictures, device=device, trust=network.trust, classes=classes)
    elif results:
        made = report_of_results(results, classes=classes)
    else:
        loaded, items = load_for(find_items(given or None, recursive=recursive), target, network, model, classes)
        rules = joins.spec(composite)
        methods = [method for method in options.listed(explainers) if method != "none"]
        made, failed = _of_images(items, loaded, rules, methods, start, device)
    for sentence in made.left_out:
        console.warn(sentence)
    path = write(made, out)
    console.wrote(path)
    return 1 if failed or made.left_out else 0


def _of_images(
    items: list[Item],
    loaded: LoadedModel,
    rules: str,
    methods: list[str],
    start: Literal["probability", "logit"],
    device: str,
) -> tuple[Report, int]:
    """Explain images by relevance propagation and the methods beside it; returns how many could not be, too."""
    from relprop.images import read_image
    from relprop.report.of_comparisons import report_of_comparisons
    from relprop.sessions import Session

    session, comparisons, failures = Session(loaded, device), [], []
    with console.progress("explaining", len(items)) as advance:
        for item in items:
            try:
                picture = item.picture if item.source is None else read_image(item.source)
                comparisons.append(
                    session.explain(
                        item.name, picture, target=item.target, composite=rules, methods=methods, start=start
                    )
                )
            except InputError as error:
                failures.append(error)
            advance(1)
    if not comparisons:
        raise failures[0]
    for failure in failures:
        console.warn(str(failure))
    return report_of_comparisons(comparisons, [console.typed()]), len(failures)
