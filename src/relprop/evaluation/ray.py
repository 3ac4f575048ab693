"""Execute a plan on a Ray cluster: one task a chunk, rows back to the driver.

The driver holds the run directory and writes the shards; nodes need the model and the data under the same paths, and
nothing else. Ray tries a task anew elsewhere when its process is lost, with its node or alone. Rows do not depend on
who computes them, so the result equals that of a local run.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from relprop.errors import RunError, require
from relprop.evaluation.local import Report, recovered, session_facts, start, timed
from relprop.evaluation.plan import Plan
from relprop.evaluation.rows import Row
from relprop.evaluation.setup import Setup, identity, set_up
from relprop.evaluation.store import Store

TRIES = 4
"""How often a chunk is tried that takes its process down."""


def run_ray(
    plan: Plan,
    out: Path,
    *,
    address: str = "local",
    workers: int | None = None,
    command: Sequence[str] = (),
    report: Report | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Store:
    """Execute `plan` in the run directory `out` on a Ray cluster, or what is left of it.

    Args:
        plan: what to evaluate; with device "cuda" each worker gets a GPU.
        out, command, report, warn: as in `relprop.evaluation.local.run`.
        address: of the cluster; "local" starts one here, "auto" finds the one that runs here. A cluster that this
            process is connected to already is used as it is.
        workers: how many chunks to compute at a time; by default as many as the cluster has GPUs or, on the CPU, cores
            for.

    Raises:
        RunError: no such cluster, or a chunk took down each process that computed it.
        MissingDependencyError: the extra `ray` is not installed.
    """
    ray = require("ray", "ray")
    _reach(address)
    setup = set_up(plan)
    store = start(out, plan, setup)
    del setup
    progress = report or (lambda done, total: None)
    facts = session_facts(command, f"ray {address}", plan.device) | recovered(store, warn)
    with _connected(ray, address), store.session(facts):
        progress(*store.done())
        _work(ray, store, workers or _room(ray, plan), progress)
    if left := len(store.missing()):
        raise RunError(f"{left} chunks of {out} are being computed by another process; let it finish, or start again")
    return store


def _work(ray: Any, store: Store, count: int, report: Report) -> None:
    """Compute all chunks that nobody else is at, `count` at a time."""
    plan = store.plan
    # max_calls=0: otherwise Ray ends a process after one task on a GPU, and each chunk would load the model anew
    room = {"num_cpus": plan.threads, "num_gpus": int(plan.device == "cuda"), "max_calls": 0}
    task = ray.remote(max_retries=TRIES - 1, **room)(_compute)
    paths = tuple(path or str(Path.cwd()) for path in sys.path)
    busy: dict[Any, tuple[int, ExitStack]] = {}
    claimed = _claimed(store)

    def submit(most: int) -> None:
        for chunk, claim in islice(claimed, most):
            busy[task.remote(plan, json.dumps(store.identity), paths, chunk)] = chunk, claim

    try:
        submit(count)
        while busy:
            (done,), _ = ray.wait([*busy], num_returns=1)
            chunk, claim = busy.pop(done)
            with claim:
                store.write(chunk, *_fetched(ray, done, chunk))
            submit(1)
            report(*store.done())
    finally:
        for unfinished, (_, claim) in busy.items():
            ray.cancel(unfinished, force=True)
            claim.close()


def _claimed(store: Store) -> Iterator[tuple[int, ExitStack]]:
    """Claim one missing chunk after the other; pass over those that another process is at, or has done since."""
    for chunk in store.missing():
        claim = ExitStack()
        if claim.enter_context(store.claim(chunk)):
            yield chunk, claim
        else:
            claim.close()


def _compute(plan: Plan, expected: str, paths: tuple[str, ...], chunk: int) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of a chunk, and where they were computed in what time; this runs on a node."""
    return timed(_set_up(plan, expected, paths), chunk)


@lru_cache(maxsize=1)  # a process computes many chunks of one plan
def _set_up(plan: Plan, expected: str, paths: tuple[str, ...]) -> Setup:
    """Load all that the plan names, and make sure that it is what the driver has: its `identity`, as JSON.

    Modules are looked for where the driver finds them, too (`paths`): a model may be a factory of the user's.
    """
    sys.path += [path for path in paths if path not in sys.path]
    setup, wanted = set_up(plan), json.loads(expected)
    found = identity(setup)
    if wrong := [f"{key}: {found[key]}, not {wanted[key]}" for key in wanted if found[key] != wanted[key]]:
        raise RunError(f"node {platform.node()} would compute other rows than the driver ({'; '.join(wrong)})")
    return setup


def _fetched(ray: Any, task: Any, chunk: int) -> tuple[list[Row], dict[str, str]]:
    """Return what a task returned, or raise what it raised: the same would happen anywhere.

    Raises:
        RunError: each process that computed the chunk was lost.
    """
    try:
        return ray.get(task)  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunError(
            f"chunk {chunk} was tried {TRIES} times, and each time its process was lost. What is done is kept; the "
            f"same command goes on with it. Ray's last message: {error}"
        ) from None


def _reach(address: str) -> None:
    """Make sure that somebody listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return  # "local" and "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise RunError(
            f"there is no Ray cluster at {address!r} ({error}); start one with `ray start --head`, which prints its "
            "address, or use --ray local"
        ) from None


def _room(ray: Any, plan: Plan) -> int:
    """How many chunks the cluster has room for at a time."""
    has = ray.cluster_resources()
    return max(1, int(has.get("GPU", 0) if plan.device == "cuda" else has.get("CPU", 1) // plan.threads))


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster; leave it as we found it."""
    if ray.is_initialized():
        yield
        return
    options = {"num_cpus": os.cpu_count(), "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"there is no Ray cluster at {address!r}: {error}; start one with `ray start --head`, or use --ray local"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
