"""The command line, run in this process."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer.testing
from typer.main import get_command

from relprop.cli import app

typer.testing._get_command = cache(get_command)  # to make all commands takes longer than to run many of them
COMMANDS: Any = typer.testing._get_command(app)


def run(*arguments: object, code: int = 0) -> Any:
    """Run `relprop ARGUMENTS`, which has to exit with `code`; returns what it printed."""
    done = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done
