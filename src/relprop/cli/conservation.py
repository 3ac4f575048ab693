"""`relprop conservation`: what every block received and passed on, and whether the score is conserved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from relprop.report.book import Book

Rtol = Annotated[
    float, typer.Option(min=0.0, help="Largest leak that is allowed, relative to the relevance at that place.")
]
Depth = Annotated[
    int,
    typer.Option(min=0, help="Parts of a name that make a block: 2 puts layer1.0.conv1 into layer1.0; 0 lists steps."),
]


def conservation(
    images: options.Images = None,
    model: options.Model = None,
    recursive: options.Recursive = False,
    target: options.Target = None,
    composite: options.Composite = "paper",
    split: options.Split = None,
    identity: options.Identity = None,
    start: options.Start = "probability",
    multi_label: options.MultiLabel = False,
    rtol: Rtol = 1e-5,
    depth: Depth = 2,
    batch_size: options.BatchSize = 8,
    arch: options.Arch = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    device: options.Device = "auto",
    classes: options.Classes = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> int:
    """Show what every block received and passed on; exit 1 if relevance leaks.

    A leak is relevance lost where a rule must keep all of it. What a rule takes on purpose (bias, epsilon) is
    absorbed: itemised, and no leak, but the map then does not sum to the score, which is said too. Exit code 1 also if
    some images could not be read.
    """
    from relprop import LRP
    from relprop.cli.batches import Job, aim, find_items
    from relprop.report.book import Book

    rules = options.composite(composite, split, identity)
    place = options.choose_device(device)
    items = find_items(images, recursive=recursive)
    options.require_targets(target, len(items))
    options.require_indices(target, options.known_outputs(model))
    loaded = options.load(model, arch=arch, size=size, mean=mean, std=std, classes=classes, device=place, trust=trust)
    items = aim(items, target, loaded)
    job = Job(loaded, LRP(loaded.model, composite=rules), items, batch_size, place, start, multi_label)
    book = Book(depth)
    for _, result in job.results():
        assert result.ledger is not None  # LRP keeps the books unless told not to
        book.add(result.ledger)
    good = book.gap <= rtol
    if json:
        document = {"model": loaded.name, "composite": rules.name, "start": start, "rtol": rtol, "balances": good}
        console.print_json(document | book.document() | {"images": book.images, "failures": job.failed()})
    else:
        _print(book, f"{loaded.name} · {options.full_spec(composite, split, identity)}", rtol)
        job.report()
    return 0 if good and not job.failures else 1


def _print(book: Book, described: str, rtol: float) -> None:
    absorbs = book.absorbed != 0  # NaN included
    count = "1 image" if book.images == 1 else f"sums over {book.images} images"
    columns = ["block", ">received", ">passed on", ">leak", *([">absorbed"] if absorbs else [])]
    console.heading(f"{described} · {count}, from the output to the image")
    made = console.table(*columns)
    for name, line in book.lines.items():
        leak = f"{line.leak:.1e}"
        cells = [
            console.number(line.received),
            console.number(line.sent),
            leak if line.leak <= rtol else f"[{console.BAD}]{leak}[/]",
        ]
        made.add_row(console.escape(name), *cells, *([f"{line.absorbed:.1e}"] if absorbs else []))
    console.show(made)
    console.out.print(
        f"started with {console.number(book.start)}, {console.number(book.end)} arrived at the image", soft_wrap=True
    )
    console.statements(book.conservation, rtol)
