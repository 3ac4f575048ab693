"""`relprop conservation`: what every block received and passed on, and whether the books balance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relprop.cli import console, options

if TYPE_CHECKING:
    from relprop.core.ledger import Ledger

Rtol = Annotated[
    float, typer.Option(min=0.0, help="Largest leak that still balances, relative to the relevance at that place.")
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
    rtol: Rtol = 1e-5,
    depth: Depth = 2,
    batch_size: options.BatchSize = 8,
    arch: options.Arch = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    device: options.Device = "auto",
    trust: options.Trust = False,
    json: options.Json = False,
) -> int:
    """Show what every block received and passed on; exit 1 if the books do not balance.

    A leak is relevance lost where a rule must keep all of it. What a rule takes on purpose (bias, epsilon) is
    absorbed: itemised, and no leak. Exit code 1 also if some images could not be read.
    """
    from relprop import LRP
    from relprop.cli.batches import Job, find_items

    rules = options.composite(composite, split, identity)
    place = options.choose_device(device)
    loaded = options.load(model, arch=arch, size=size, mean=mean, std=std, device=place, trust=trust)
    items = find_items(images, target, loaded.classes, recursive=recursive)
    job = Job(loaded, LRP(loaded.model, composite=rules), items, batch_size, place, start)
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


@dataclass
class Line:
    """One block's line.

    `received` is the relevance at the block's output, summed over images; `took` and `leaked` are what its steps
    absorbed and lost of it; `leak` and `absorbed` are the largest relative ones of a step and an image.
    """

    received: float = 0.0
    took: float = 0.0
    leaked: float = 0.0
    leak: float = 0.0
    absorbed: float = 0.0

    @property
    def sent(self) -> float:
        """What leaves the block towards the image."""
        return self.received - self.took - self.leaked


@dataclass
class Book:
    """The ledgers of all images, added up by block: the first `depth` parts of a step's name."""

    depth: int
    lines: dict[str, Line] = field(default_factory=dict)
    start: float = 0.0
    end: float = 0.0
    gap: float = 0.0
    absorbed: float = 0.0
    images: int = 0

    def add(self, ledger: Ledger) -> None:
        """Enter one result's ledger, from the output to the input."""
        seen: set[str] = set()
        share = ledger.absorptions.abs() / ledger.scale
        for at, entry in enumerate(ledger.entries):
            block = self._block(entry.name)
            line = self.lines.setdefault(block, Line())
            if block not in seen:  # the step of the block that is nearest to the output
                line.received += float(entry.received.sum())
            seen.add(block)
            line.took += float(ledger.absorptions[at].sum())
            line.leaked += float(ledger.leaks[at].sum())
            line.leak = _worse(line.leak, float(ledger.gaps[at].max()))
            line.absorbed = _worse(line.absorbed, float(share[at].max()))
        self.start += float(ledger.start.sum())
        self.end += float(ledger.end.sum())
        self.gap = _worse(self.gap, ledger.gap)
        self.absorbed = _worse(self.absorbed, ledger.absorbed)
        self.images += len(ledger.start)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        blocks = [
            {"block": name, "received": line.received, "sent": line.sent, "leak": line.leak, "absorbed": line.absorbed}
            for name, line in self.lines.items()
        ]
        return {"gap": self.gap, "absorbed": self.absorbed, "start": self.start, "end": self.end, "blocks": blocks}

    def _block(self, name: str) -> str:
        parts = name.split(".")
        if self.depth == 0 or len(parts) == 1:
            return name
        return ".".join(parts[: min(self.depth, len(parts) - 1)])


def _worse(one: float, other: float) -> float:
    """Return the larger, and NaN if either is: what cannot be computed does not balance."""
    return other if math.isnan(other) else one if math.isnan(one) else max(one, other)


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
    if absorbs:
        text = f"up to {100 * book.absorbed:.3g} % was absorbed by rules that say so (bias, ε)"
        console.out.print(text, soft_wrap=True)
    yes = f"the books balance: largest gap {book.gap:.1e}, at most {rtol:g} allowed"
    no = f"the books do not balance: largest gap {book.gap:.1e}, at most {rtol:g} allowed"
    console.out.print(console.verdict(book.gap <= rtol, yes, no), soft_wrap=True)
