"""Execute a plan on a Ray cluster: one actor a worker, chunks to the next free one, rows back to the driver.

The driver holds the run directory and writes the shards; nodes need the model and the data under the same paths, and
nothing else. An actor that is lost, with its node or alone, is replaced, and its chunk computed again elsewhere.
Rows do not depend on who computes them, so the result equals that of a local run.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relprop.errors import RunError, require
from relprop.evaluation.local import Report, recovered, session_facts, start, timed
from relprop.evaluation.plan import Plan
from relprop.evaluation.rows import Row
from relprop.evaluation.setup import Setup, identity, set_up
from relprop.evaluation.store import Store

PATIENCE = 4
"""What took so many actors down with it is not tried again."""


class Worker:
    """What an actor runs: it is set up once, then chunks come in."""

    setup: Setup

    def set_up(self, plan: dict[str, Any], expected: dict[str, Any], paths: Sequence[str]) -> None:
        """Load all that the plan names, and make sure that it is what the driver has.

        Modules are looked for where the driver finds them, too (`paths`): a model may be a factory of the user's.
        """
        sys.path += [path for path in paths if path not in sys.path]
        self.setup = set_up(Plan.from_json(plan))
        found = identity(self.setup)
        if wrong := [f"{key}: {found[key]}, not {expected[key]}" for key in expected if found[key] != expected[key]]:
            raise RunError(f"node {platform.node()} would compute other rows than the driver ({'; '.join(wrong)})")

    def compute(self, chunk: int) -> tuple[list[Row], dict[str, str]]:
        """Return the rows of a chunk, and where they were computed in what time."""
        return timed(self.setup, chunk)


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
        workers: how many actors; by default as many as the cluster has GPUs or, on the CPU, cores for.

    Raises:
        RunError: no such cluster, no worker could be set up, or a chunk killed one after another.
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
        count = min(workers or _room(ray, plan), max(1, len(store.missing())))
        _Pool(ray, store, deque(store.missing())).work(count, progress)
    if left := len(store.missing()):
        raise RunError(f"{left} chunks of {out} are being computed by another process; let it finish, or start again")
    return store


@dataclass
class _Pool:
    """The actors of a run: those that are being set up, and those that compute a chunk."""

    ray: Any
    store: Store
    queue: deque[int]
    joining: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, int, ExitStack]] = field(default_factory=dict)
    deaths: Counter[int | None] = field(default_factory=Counter)

    def work(self, count: int, report: Report) -> None:
        """Compute all chunks of the queue with `count` actors."""
        try:
            for _ in range(count if self.queue else 0):
                self.spawn()
            while self.queue or self.busy:
                done, _ = self.ray.wait([*self.joining, *self.busy], num_returns=1)
                self.joined(done[0]) if done[0] in self.joining else self.finished(done[0])
                report(*self.store.done())
        finally:
            for actor in [*self.joining.values(), *(actor for actor, _, _ in self.busy.values())]:
                self.ray.kill(actor)
            for _, _, claim in self.busy.values():
                claim.close()

    def spawn(self) -> None:
        """Ask for an actor; it joins when the cluster has found room for it and it is set up."""
        plan = self.store.plan
        options = {"num_cpus": plan.threads, "num_gpus": int(plan.device == "cuda"), "max_restarts": 0}
        actor = self.ray.remote(Worker).options(**options).remote()
        paths = [path or str(Path.cwd()) for path in sys.path]
        self.joining[actor.set_up.remote(plan.to_json(), self.store.identity, paths)] = actor

    def joined(self, ref: Any) -> None:
        """Take in an actor that is ready, or note that it could not be set up."""
        actor = self.joining.pop(ref)
        try:
            self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self.ray.exceptions.RayError as error:
            self.lost(None, error)
        else:
            self.deaths[None] = 0
            self.employ(actor)

    def employ(self, actor: Any) -> None:
        """Give the next chunk to a free actor, or let it go."""
        while self.queue:
            chunk, claim = self.queue.popleft(), ExitStack()
            if claim.enter_context(self.store.claim(chunk)):
                self.busy[actor.compute.remote(chunk)] = (actor, chunk, claim)
                return
            claim.close()  # another process is at it, or was quicker
        self.ray.kill(actor)

    def finished(self, ref: Any) -> None:
        """Store the rows of a chunk, or note that its actor was lost."""
        actor, chunk, claim = self.busy.pop(ref)
        with claim:
            try:
                self.store.write(chunk, *self.ray.get(ref))
            except self.ray.exceptions.RayTaskError as error:
                raise _cause(error) from None  # the same would happen anywhere
            except self.ray.exceptions.RayError as error:
                actor = None
                self.queue.append(chunk)
                self.lost(chunk, error)
        if actor is not None:
            self.employ(actor)

    def lost(self, chunk: int | None, error: Exception) -> None:
        """Replace an actor that died, unless what killed it would kill the next one too."""
        self.deaths[chunk] += 1
        if self.deaths[chunk] < PATIENCE:
            time.sleep(2 ** self.deaths[None] - 1)  # a lost node gets new actors until Ray has noticed that it is lost
            self.spawn()
        elif chunk is not None or not (self.busy or self.joining):
            what = "while they were set up" if chunk is None else f"at chunk {chunk}"
            raise RunError(f"{PATIENCE} Ray workers died {what}, so it is not tried again; the last said: {error}")


def _cause(error: Exception) -> Exception:
    """Return what was raised inside an actor."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, Exception) else error


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
    """How many actors the cluster has room for."""
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
