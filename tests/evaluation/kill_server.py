"""Forks workers on one run directory, on command: importing torch twenty times over would take a minute.

kill_server.py RUN    then a line "work" on standard input answers with the process id of a new worker, "wait PID"
                      with its exit status
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setup_doubles import Slow, itself, noise, setup_of

from relprop.evaluation.local import work
from relprop.evaluation.setup import Measure
from relprop.evaluation.store import begin

SAMPLES = 240  # in chunks of 4
SECONDS = 0.03  # for each of the two explainers of a chunk


def slow_setup(seconds: float = SECONDS):
    explainers = {"itself": itself, "noise": noise}
    measures = [Measure(Slow(seconds), ("total",))]
    return setup_of([str(at) for at in range(SAMPLES)], explainers, measures=measures)


def start(root: Path, seconds: float) -> None:
    """Do what a process of a run does: begin or take up, then work."""
    setup = slow_setup(seconds)
    store = begin(root, setup.plan, setup.chunks, {"weights": "none"}, {})
    work(store, setup)


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main(root: Path) -> None:
    import filelock  # noqa: F401
    import polars as pl  # noqa: F401

    for line in sys.stdin:
        word, *rest = line.split()
        if word == "work":
            child = os.fork()
            if child == 0:
                start(root, SECONDS)
                os._exit(0)
            answer(child)
        else:
            _, status = os.waitpid(int(rest[0]), 0)
            answer(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
