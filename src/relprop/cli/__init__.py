"""The command line: `relprop COMMAND`.

Exit codes, the same for every command:

    0    done, and what was checked holds
    1    a check failed, or some of the images could not be read (the others are done)
    2    misuse: nothing was done, one sentence on standard error says why
    70   a defect of relprop; `relprop --debug COMMAND` shows the traceback
    130  interrupted;  141  the reader of our output went away

The command modules import heavy libraries inside their functions, so that `relprop --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from relprop.cli import console
from relprop.cli.options import spread
from relprop.errors import RelpropError

COMMANDS = (
    "explain", "explain-text", "check", "conservation", "evaluate", "summary", "check-run", "tune", "train",
    "reproduce", "concepts", "cluster", "report", "serve", "doctor",
)  # fmt: skip
"""Commands in the order of `--help`; each is a function in a module of the same name, with _ for -."""

DEFECT, INTERRUPTED, CLOSED_PIPE = 70, 130, 141

# The base of typer's own complaints (typer has brought its own copy of click since 0.26).
_ParseError = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class _Commands(TyperGroup):
    """Where errors become sentences and exit codes."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run the command line and exit."""
        args = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        debug = args[:1] == ["--debug"] or bool(os.environ.get("RELPROP_DEBUG"))
        sys.exit(_outcome(lambda: super(_Commands, self).main(args, *rest, **options), debug))


def _outcome(run: Callable[[], Any], debug: bool) -> int:
    """Run a command and return its exit code; every complaint is one sentence on standard error."""
    try:
        code = run()
        sys.stdout.flush()
    except SystemExit:  # how rich and typer leave when the reader of a pipe has gone
        return CLOSED_PIPE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        if debug and not isinstance(error, _ParseError):
            raise
        return _complain(error)
    if code == INTERRUPTED:
        console.fail("interrupted")
    return code if isinstance(code, int) else 0


def _complain(error: Exception) -> int:
    """Print an error as a sentence and return the exit code that belongs to it."""
    if isinstance(error, _ParseError):
        sentence = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        where = getattr(error, "ctx", None)
        if sentence:  # empty where no command was given: the help was shown instead
            console.fail(sentence + (f" (see: {where.command_path} --help)" if where else ""))
        return 2
    if isinstance(error, RelpropError):
        console.fail(str(error))
        return error.exit_code
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        console.fail(f"{path}{error.strerror or error}")
        return 2
    if type(error).__name__ == "OutOfMemoryError":  # torch's; importing torch to say so would be slow
        console.fail("the device ran out of memory; try a smaller --batch-size, or --device cpu")
        return 2
    console.fail(
        f"this is a defect of relprop, please report it: {type(error).__name__}: {error} "
        "(relprop --debug COMMAND ... shows the traceback)"
    )
    return DEFECT


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"relprop {version('relprop')}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also RELPROP_DEBUG=1.")
    ] = False,
) -> None:
    """Layer-wise relevance propagation through residual networks, with every unit of relevance counted.

    Exit codes: 0 done; 1 a check failed, or some images could not be read; 2 misuse.
    """


def build() -> typer.Typer:
    """Make the application with all commands."""
    made = typer.Typer(
        name="relprop",
        cls=_Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_top)
    for name in COMMANDS:
        module = name.replace("-", "_")
        made.command(name)(spread(getattr(import_module(f"relprop.cli.{module}"), module)))
    return made


app = build()


def main() -> None:
    """Entry point of the `relprop` script."""
    import warnings

    warnings.simplefilter("ignore")  # of the libraries below us; ours are sentences, printed
    warnings.showwarning = lambda message, *_, **__: console.warn(str(message))
    app(prog_name="relprop")
