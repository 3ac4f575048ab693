from __future__ import annotations

from collections.abc import Callable

import pytest
from reproduce_net import OPTIONS

from relprop.cli import app
from tiny import pictures

Relprop = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Spec of a data set of eight pictures of two classes."""
    return f"folder:{pictures(tmp_path_factory.mktemp('reproduce'), 8)}"


@pytest.fixture
def reproduce(capsys, data) -> Relprop:
    """Run `relprop reproduce` on the tiny network: exit code, standard output, standard error."""

    def run(experiment: str, *arguments: object, options: list[str] = OPTIONS) -> tuple[int, str, str]:
        given = [*options, *([] if "--data" in arguments else ["--data", data]), *map(str, arguments)]
        with pytest.raises(SystemExit) as exit:
            app(["reproduce", experiment, *given], prog_name="relprop")
        said = capsys.readouterr()
        return int(exit.value.code or 0), said.out, " ".join(said.err.split())

    return run
