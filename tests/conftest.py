"""What all tests share: reference data, and how many processes and threads they run in."""

from __future__ import annotations

import os
from pathlib import Path

# The networks of the tests are tiny: more threads than one cost time, in the processes that tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """All tests run in a process a core; tests that are named run in one, which spares them starting others."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if named else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder
