"""`relprop conservation`: what every block received and passed on, and whether the score is conserved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli import console, options
from relprop.tables import number

if TYPE_CHECKING:
    from relprop.report.conservation import ConservationTable

Rtol = Annotated[float, typer.Option(min=0.0, help="Largest leak that is allowed, relative to the relevance there.")]
Depth = Annotated[
    int,
    typer.Option(min=0, help="Parts of a name that make a block: 2 puts layer1.0.conv1 into layer1.0; 0 lists steps."),
]


def conservation(
    *,
    images: options.Images = None,
    model: options.Model = None,
    recursive: options.Recursive = False,
    target: options.Target = None,
    composite: options.Composite = "paper",
    joins: options.Joins,
    start: options.Start = "probability",
    rtol: Rtol = 1e-5,
    depth: Depth = 2,
    batch_size: options.BatchSize = 8,
    network: options.Network,
    classes: options.Classes = None,
    json: options.Json = False,
) -> int:
    """Show what every block received and passed on; exit 1 if relevance leaks.

    A leak is relevance lost where a rule must keep all of it. What a rule takes on purpose (bias, epsilon) is
    absorbed: itemised, and no leak, but the map then does not sum to the score, which is said too. Exit code 1 also if
    some images could not be read.
    """
    from relprop import LRP
    from relprop.cli.batches import Job, find_items, load_for
    from relprop.report.conservation import ConservationTable

    rules = joins.composite(composite)
    device = network.chosen_device()
    loaded, items = load_for(find_items(images, recursive=recursive), target, network, model, classes)
    job = Job(loaded, LRP(loaded.model, composite=rules), items, batch_size, device, start)
    table = ConservationTable(depth)
    for _, result in job.results():
        assert result.ledger is not None  # LRP keeps a ledger by default
        table.add(result.ledger)
    good = table.gap <= rtol
    if json:
        document = {"model": loaded.name, "composite": rules.name, "start": start, "rtol": rtol, "balances": good}
        console.print_json(document | table.document() | {"images": table.images, "failures": job.failed()})
    else:
        _print(table, f"{loaded.name} · {joins.spec(composite)}", rtol)
        job.report()
    return 0 if good and not job.failures else 1


def _print(table: ConservationTable, described: str, rtol: float) -> None:
    count = "1 image" if table.images == 1 else f"sums over {table.images} images"
    block, *numbers = table.heads()
    console.heading(f"{described} · {count}, from the output to the image")
    made = console.table(block, *(f">{head}" for head in numbers))
    for name, row in table.rows.items():
        received, sent, leak, *absorbed = table.cells(row)
        leak = leak if row.leak <= rtol else f"[{console.BAD}]{leak}[/]"
        made.add_row(console.escape(name), received, sent, leak, *absorbed)
    console.show(made)
    ends = f"started with {number(table.start)}, {number(table.end)} arrived at the image"
    console.out.print(ends, soft_wrap=True)
    console.statements(table.conservation, rtol)
