"""Real processes, really killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from kill_server import SECONDS, slow_setup, start

from relprop.evaluation.store import open_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")]


class Server:
    """Workers on one run directory, each a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def server(root: Path):
    """Start `kill_server.py`, and stop it."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kill_server.py")), str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


def done(root: Path) -> int:
    """Chunks of a run that are finished."""
    return len(list((root / "shards").glob("?????.parquet")))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "run"
    start(root, 0.0)
    return open_run(root).rows().collect()


def test_after_twenty_sigkills_the_rows_equal_those_of_an_uninterrupted_run(tmp_path, uninterrupted):
    root, chance = tmp_path / "run", random.Random(0)
    progress = []
    with server(root) as workers:
        for _ in range(20):
            worker, before = workers.ask("work"), done(root)
            patient = chance.random() < 0.3  # lets the worker finish a chunk, however slow the machine is
            while patient and done(root) == before:
                time.sleep(SECONDS / 10)
            time.sleep(chance.uniform(0.0, 2 * SECONDS))
            os.kill(worker, signal.SIGKILL)
            assert workers.ask(f"wait {worker}") == signal.SIGKILL
            progress.append(done(root))
        last = workers.ask("work")
        assert workers.ask(f"wait {last}") == 0
    assert progress == sorted(progress)  # nothing that was done is lost
    assert 0 < progress[-1] < slow_setup().chunks, "the kills missed the run: adapt the delays"
    assert open_run(root).rows().collect().equals(uninterrupted)
    assert len(uninterrupted) == 480
    assert sorted(path.name for path in (root / "shards").iterdir()) == [f"{at:05d}.parquet" for at in range(60)]


def test_two_processes_on_one_run_directory_share_it(tmp_path, uninterrupted):
    root = tmp_path / "run"
    with server(root) as workers:
        first, second = workers.ask("work"), workers.ask("work")
        assert [workers.ask(f"wait {one}") for one in (first, second)] == [0, 0]
    assert open_run(root).rows().collect().equals(uninterrupted)


def test_one_of_two_processes_is_killed_and_the_other_finishes_its_chunk(tmp_path, uninterrupted):
    root = tmp_path / "run"
    with server(root) as workers:
        first, second = workers.ask("work"), workers.ask("work")
        time.sleep(0.15)
        os.kill(first, signal.SIGKILL)
        assert [workers.ask(f"wait {one}") for one in (first, second)] == [signal.SIGKILL, 0]
    assert open_run(root).rows().collect().equals(uninterrupted)
