"""What all tests share: reference data, how many processes and threads they run in, and a quick start."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

# The networks of the tests are tiny: more threads than one cost time, in the processes that tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# Importing torch makes half a million objects that live as long as the process: the garbage collector, which would look
# at all of them several times by then, waits until the tests begin.
gc.disable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A process a core; for one or two files this one alone, as others would take longer to start than they spare."""
    files = {Path(argument.partition("::")[0]) for argument in config.args}
    return 0 if len(files) <= 2 and all(file.is_file() for file in files) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Tests collect their own garbage, and not what was imported for all of them."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # not every 700 objects: rules make that many in a blink, and tests are short
    gc.enable()
    if comparison := sys.modules.get("torch.testing._comparison"):
        # else `torch.testing.assert_close` imports torch.distributed.tensor for a second, to unwrap what no test has
        comparison._HAS_DTENSOR = False


def pytest_unconfigure() -> None:
    """Nor does the interpreter, as it ends, look for garbage among all objects that end with it."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny  # here, as it imports torch, which not every file needs

    return Tiny()


@pytest.fixture(scope="module")
def expected(tiny):
    import relprop
    from tiny import images

    return relprop.explain(tiny, images())
