"""Runs timed by turns in one process, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def by_turns(runs: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 2) -> dict[str, float]:
    """Median seconds of each run over `rounds` turns; `warm` turns before capture graphs, pack weights, fill caches."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm + rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if turn >= warm:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
