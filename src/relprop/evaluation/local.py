"""Execute a plan on this machine, in this process or in several.

A worker is nothing but a process that opens the run directory, and computes chunks that nobody has claimed. So several
workers, several terminals, or several machines on one file system all work on a run in the same way.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from relprop.errors import DataError, RunError
from relprop.evaluation.compute import chunk_rows
from relprop.evaluation.plan import Plan
from relprop.evaluation.recovery import set_aside
from relprop.evaluation.rows import Row
from relprop.evaluation.setup import Setup, identity, set_up, version
from relprop.evaluation.store import Store, begin

Report = Callable[[int, int], None]
"""Called with the number of samples that are done, and of all."""

_LIBRARIES = ("numpy", "captum", "torchcam", "timm", "polars", "pyarrow", "ray")


def run(
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    device: str | None = None,
    command: Sequence[str] = (),
    report: Report | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Store:
    """Execute `plan` in the run directory `out`, or what is left of it.

    Shards that are damaged, or not of this run, are set aside, and their rows computed anew.

    Args:
        plan: what to evaluate.
        out: the run directory; made if it is not there.
        workers: processes to compute in; with 1, this one.
        device: the device, of the plan's kind; with several workers each takes a GPU in turn.
        command: how this run was asked for, for the manifest.
        report: is called with how far the run is, at the start and whenever chunks were done.
        warn: is called with a sentence on each of the shards that were set aside.

    Raises:
        RunError: `out` holds another run, or the workers died.
        UsageError: anything in the plan that cannot be used.
    """
    if workers < 1:
        raise RunError(f"a run needs at least one worker, not {workers}")
    setup = set_up(plan, device)
    store = start(out, plan, setup)
    progress = report or (lambda done, total: None)
    with store.session(session_facts(command, workers, setup.device) | recovered(store, warn)):
        progress(*store.done())
        if workers == 1 or len(store.missing()) < 2:
            work(store, setup, progress)
        else:
            del setup
            _wait_for(store, workers, progress)
    return store


def start(out: Path, plan: Plan, setup: Setup) -> Store:
    """Begin the run of a setup, or take it up again, noting what a reader will want to know.

    Raises:
        DataError: two samples of one id, whose rows could not be told apart.
        RunError: `out` holds another run.
    """
    ids = Counter(sample.id for sample in setup.samples.chosen)
    if twice := [name for name, count in ids.most_common(1) if count > 1]:
        raise DataError(f"two samples of {plan.data} have the id {twice[0]!r}; an id names one sample")
    facts = {
        "samples": len(setup.samples.chosen),
        "left_out": setup.samples.left_out,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "machine": machine(setup.device),
    }
    return begin(out, plan, setup.chunks, identity(setup), facts)


def recovered(store: Store, warn: Callable[[str], object]) -> dict[str, Any]:
    """Set aside shards that are not what they claim to be, say so, and return it for the notes on the session."""
    said = set_aside(store)
    for sentence in said:
        warn(sentence)
    return {"set_aside": list(said)} if said else {}


def session_facts(command: Sequence[str], workers: int | str, device: str) -> dict[str, Any]:
    """Return what is noted about one call."""
    return {"command": list(command), "workers": workers, "process": os.getpid(), "machine": machine(device)}


def machine(device: str) -> dict[str, str]:
    """Return name, system and device of this machine."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {"host": platform.node(), "system": platform.platform(), "device": name}


def work(store: Store, setup: Setup, report: Report = lambda done, total: None) -> None:
    """Compute every chunk that nobody else is at; then wait for those of others, and do what they left."""
    for wait in (False, True):
        for chunk in store.missing():
            with store.claim(chunk, wait) as mine:
                if mine:
                    compute(store, setup, chunk)
            report(*store.done())


def compute(store: Store, setup: Setup, chunk: int) -> None:
    """Compute and store one chunk."""
    store.write(chunk, *timed(setup, chunk))


def timed(setup: Setup, chunk: int) -> tuple[list[Row], dict[str, str]]:
    """Compute one chunk, and note where and in what time."""
    began, worked = time.perf_counter(), time.process_time()
    rows = chunk_rows(setup, chunk)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    facts = {"host": platform.node(), "process": str(os.getpid()), "device": setup.device}
    return rows, {**facts, "seconds": f"{seconds:.3f}", "cpu_seconds": f"{cpu_seconds:.3f}"}


def _wait_for(store: Store, workers: int, report: Report) -> None:
    """Start worker processes and wait until the run is done; none is started again."""
    logs = [store.root / "locks" / f"worker-{number}.log" for number in range(workers)]
    processes = [_spawn(store, number, log) for number, log in enumerate(logs)]
    try:
        while any(worker.poll() is None for worker in processes):
            time.sleep(0.1)
            report(*store.done())
    finally:
        for worker in processes:
            if worker.stdin is not None:
                worker.stdin.close()  # tells it to stop, should it still run
        for worker in processes:
            worker.wait()
    report(*store.done())
    if left := store.missing():
        said = {log.read_text(errors="replace").strip()[-500:] for log in logs} - {""}
        codes = ", ".join(str(worker.returncode) for worker in processes)
        raise RunError(
            f"all {workers} workers ended (exit codes {codes}) with {len(left)} of {store.chunks} chunks left: "
            f"{' / '.join(sorted(said)) or 'they said nothing; killed for lack of memory?'}. "
            "What is done is kept; the same command goes on with it"
        )
    for log in logs:
        log.unlink(missing_ok=True)


def _spawn(store: Store, number: int, log: Path) -> subprocess.Popen[bytes]:
    # workers find modules where this process does
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    environment = {**os.environ, "OMP_NUM_THREADS": str(store.plan.threads), "PYTHONPATH": paths}
    if store.plan.device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        devices = [name for name in visible if name] or [str(at) for at in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    with log.open("wb") as errors:
        return subprocess.Popen(
            # -P: a module in the current folder takes no part, unless it does in this process
            [sys.executable, "-P", "-W", "ignore", "-m", "relprop.evaluation.worker", str(store.root)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
