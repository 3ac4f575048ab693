"""What commands print, and where: results on standard output, progress and complaints on standard error.

With `--json` standard output holds one JSON document and nothing else.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape as _escape
from rich.segment import Segment
from rich.table import Table

from relprop.documents import printable, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from rich.console import ConsoleOptions, RenderableType

    from relprop.core.backward.ledger import Conservation


class PlainConsole(Console):
    """A console that styles text, and obeys no control characters in it: names and metadata come from anybody."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with control characters written out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


out = PlainConsole(highlight=False)
err = PlainConsole(stderr=True, highlight=False)

GOOD, BAD, QUIET, FILE = "green", "bold red", "bright_black", "cyan"


def escape(text: str) -> str:
    """Return a name as text that markup and terminal leave alone, on one line; of a word without end, both ends."""
    return _escape(_ENDLESS.sub(r"\1...\2", printable(text).replace("\n", "\\n")))


#: no path is as long; names come from files, too
_ENDLESS = re.compile(r"(\S{150})\S{5000,}(\S{150})")


def write(text: str) -> None:
    """Write a text to standard output as it is, with control characters written out."""
    sys.stdout.write(printable(text))


def fail(sentence: str) -> None:
    """Print an error: one sentence, on standard error, never wrapped inside a word or path."""
    err.print(f"[{BAD}]error:[/] {escape(sentence)}", soft_wrap=True)


def warn(sentence: str) -> None:
    """Print a warning on standard error."""
    err.print(f"[yellow]warning:[/] {escape(sentence)}", soft_wrap=True)


def table(*columns: str) -> Table:
    """Return an empty table in the house style; a column whose name starts with ">" is right-aligned."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            header_style=QUIET,
            no_wrap=column.startswith(">"),
            overflow="fold",
        )
    return made


def wrote(path: Path | str, where: Console = out) -> None:
    """Print the path of a file that was written."""
    where.print(f"[{GOOD}]→[/] [{FILE}]{escape(str(path))}[/]", soft_wrap=True)


def typed() -> str:
    """Return the command as it was typed, for those who want the same again."""
    return shlex.join(["relprop", *sys.argv[1:]])


def heading(text: str) -> None:
    """Print a line of its own above a table."""
    out.print(f"[bold]{escape(text)}[/]", soft_wrap=True)


def statements(said: Conservation, rtol: float = 1e-5) -> None:
    """Print the two statements about conservation, each on a line, marked and coloured."""
    out.print(verdict(not said.leaks(rtol), said.leak_text(rtol), said.leak_text(rtol)), soft_wrap=True)
    out.print(verdict(said.conserves_score, said.score_text, said.score_text), soft_wrap=True)


def show(made: Table) -> None:
    """Print a table; where standard output is no terminal, as wide as it needs to be.

    In a terminal too narrow for it, where names would be broken in the middle, each row becomes a list of its cells.
    """
    if out.is_terminal:
        needed = made.__rich_measure__(out, out.options.update(width=10_000)).minimum
        if needed <= out.width:
            out.print(made)
            return
        heads = [str(column.header) for column in made.columns]
        for row in zip(*(column.cells for column in made.columns), strict=True):
            longest = max(map(len, heads))
            for head, cell in zip(heads, row, strict=True):
                out.print(f"[{QUIET}]{escape(head):{longest}}[/]  {cell}", soft_wrap=True)
            out.print()
    else:
        wide = PlainConsole(width=10_000, highlight=False)
        PlainConsole(width=wide.measure(made).maximum + 1, highlight=False).print(made)


def print_json(document: Any) -> None:
    """Print one JSON document; numbers that JSON does not know (infinite, not a number) become null."""
    sys.stdout.write(json.dumps(_jsonable(document), indent=2, allow_nan=False) + "\n")


def verdict(good: bool, yes: str, no: str) -> str:
    """Return `yes` or `no`, marked and coloured."""
    return f"[{GOOD}]✓ {escape(yes)}[/]" if good else f"[{BAD}]✗ {escape(no)}[/]"


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on standard error while one thing takes its time; nothing where it is no terminal."""
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while work goes on; yields `advance(steps)`.

    A single step gets a spinner; nothing is drawn where standard error is no terminal.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total < 2:
        with waiting(what):
            yield lambda steps: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)


def duration(seconds: float) -> str:
    """Write a time as "2.5 hours" or "12 minutes"."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} minutes"


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {text_of(str(key)): _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bool | int | float) or value is None:
        return value
    return text_of(str(value))
