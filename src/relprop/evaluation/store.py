"""A run directory: one Parquet shard for each chunk of samples, and what is known about the run.

    RUN/manifest.json       the plan, and all that its rows depend on; written once
    RUN/shards/00012.parquet   all rows of chunk 12
    RUN/sessions/*.json     who worked on the run, when, with which command
    RUN/locks/              held while somebody works on a chunk; empty when the run is finished

A shard is a function of (plan, number) alone, and appears under its name by an atomic rename when it is whole. Nothing
is ever changed after that. So a run may be killed at any moment and taken up again, and even two processes that
computed the same chunk would write the same file: locks save work, correctness does not hang on them.
"""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relprop.errors import RunError, require
from relprop.evaluation.plan import Plan
from relprop.evaluation.rows import Row, frame
from relprop.files import write_atomically, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import polars as pl

    from relprop.evaluation.tables import Summary

MANIFEST, SHARDS, SESSIONS, LOCKS = "manifest.json", "shards", "sessions", "locks"


@dataclass(frozen=True)
class Store:
    """A run directory that has begun.

    Attributes:
        root: the directory.
        plan: what is run.
        chunks: how many chunks the samples make.
        identity: all else that decides the rows: digests of samples and weights, versions.
    """

    root: Path
    plan: Plan
    chunks: int
    identity: dict[str, Any]

    def shard(self, chunk: int) -> Path:
        """Return the file of a chunk's rows."""
        return self.root / SHARDS / f"{chunk:05d}.parquet"

    def missing(self) -> list[int]:
        """Return the chunks that are not done."""
        names = {path.name for path in (self.root / SHARDS).iterdir()}
        return [chunk for chunk in range(self.chunks) if self.shard(chunk).name not in names]

    @contextmanager
    def claim(self, chunk: int, wait: bool = False) -> Iterator[bool]:
        """Try to be the one who works on a chunk; yields False if it is done, or if somebody else is at it.

        The claim ends with the process that holds it, however that ends. `wait` waits for the other to finish or die.
        """
        from filelock import FileLock, Timeout

        path = self.root / LOCKS / f"{chunk:05d}.lock"
        try:
            lock = FileLock(path, timeout=-1 if wait else 0).acquire()
        except Timeout:
            yield False
            return
        with lock:
            done = self.shard(chunk).exists()
            if not done:
                for stale in self.shard(chunk).parent.glob(f".{self.shard(chunk).name}.*"):
                    stale.unlink()  # left by a process that was killed: the claim is ours, so nobody is writing it
            yield not done
            if self.shard(chunk).exists():
                path.unlink(missing_ok=True)  # whoever still waits for this lock will find the chunk done

    def write(self, chunk: int, rows: Sequence[Row], facts: dict[str, str]) -> None:
        """Store all rows of a chunk, whole or not at all."""
        metadata = {"relprop.plan": self.plan.digest, **{f"relprop.{key}": value for key, value in facts.items()}}
        table = frame(rows)
        write_atomically(self.shard(chunk), lambda path: table.write_parquet(path, metadata=metadata))

    def rows(self) -> pl.LazyFrame:
        """Return all rows that are there, in the order of the samples.

        Raises:
            RunError: there are none yet.
        """
        polars = require("polars", "eval")
        missing = set(self.missing())
        there = [self.shard(chunk) for chunk in range(self.chunks) if chunk not in missing]
        if not there:
            raise RunError(f"{self.root} holds no rows yet; start the same command again to go on with it")
        return polars.scan_parquet(there, glob=False)  # type: ignore[no-any-return]

    @contextmanager
    def session(self, facts: dict[str, Any]) -> Iterator[None]:
        """Note who works on the run, and how it ended."""
        started = now()
        path = self.root / SESSIONS / f"{started.replace(':', '')}-{secrets.token_hex(3)}.json"
        document = {**facts, "started": started, "chunks_left": len(self.missing())}
        write_json(path, document)
        try:
            yield
        finally:
            write_json(path, {**document, "ended": now(), "chunks_left_at_the_end": len(self.missing())})


def begin(root: Path, plan: Plan, chunks: int, identity: dict[str, Any], facts: dict[str, Any]) -> Store:
    """Begin a run in `root`, or take it up again.

    Args:
        root: the run directory; made if it is not there.
        plan: what to run.
        chunks: how many chunks the samples make.
        identity: what else decides the rows.
        facts: for the reader of the manifest only.

    Raises:
        RunError: the directory holds another run, or something else.
    """
    from filelock import FileLock

    known = {MANIFEST, SHARDS, SESSIONS, LOCKS}
    foreign = not (root / MANIFEST).exists() and bool(strangers(root, known))
    if foreign or (root.exists() and not root.is_dir()):
        raise RunError(f"{root} is there and is no run directory; choose an empty or a new one for --out")
    for name in (SHARDS, SESSIONS, LOCKS):
        (root / name).mkdir(parents=True, exist_ok=True)
    with FileLock(root / LOCKS / "manifest.lock"):
        if (root / MANIFEST).exists():
            store = open_run(root)
            _refuse_another(store, plan, identity)
            return store
        document = {"plan": plan.to_json(), "digest": plan.digest, "chunks": chunks, "identity": identity, **facts}
        write_json(root / MANIFEST, {"begun": now(), **document})
    return Store(root, plan, chunks, identity)


def open_run(root: Path) -> Store:
    """Open a run that has begun.

    Raises:
        RunError: there is none.
    """
    document = manifest(root)
    try:
        return Store(root, Plan.from_json(document["plan"]), document["chunks"], document["identity"])
    except KeyError as missing:
        raise RunError(f"{root / MANIFEST} lacks {missing}; `relprop evaluate` did not write it") from None


def share_done(root: Path) -> float:
    """Share of a run's chunks that are done; 0 where it has not begun."""
    if not (root / MANIFEST).exists():
        return 0.0
    store = open_run(root)
    return 1 - len(store.missing()) / max(1, store.chunks)


def manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a run.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{root} is no run directory (no {MANIFEST} in it); `relprop evaluate --out` makes one"
        ) from None
    except ValueError as error:
        raise RunError(f"{root / MANIFEST} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"{root / MANIFEST} was not written by `relprop evaluate`")
    return found


def summary_of(store: Store, versus: str | None = None) -> Summary:
    """Average the rows of a run, finished or not: see `relprop.evaluation.summary.summarise`."""
    from relprop.evaluation.summary import summarise

    left = len(store.missing())
    done = f"NOT FINISHED: {store.chunks - left} of {store.chunks} chunks" if left else ""
    return summarise(store.rows(), store.plan, versus, done)


def _refuse_another(store: Store, plan: Plan, identity: dict[str, Any]) -> None:
    if store.plan.digest != plan.digest:
        raise RunError(
            f"{store.root} holds another run ({'; '.join(store.plan.differences(plan))}); choose another --out, or "
            "give the options that it was begun with"
        )
    changed = [f"{key} was {store.identity.get(key)}, is {value}" for key, value in identity.items()]
    changed = [text for text, key in zip(changed, identity, strict=True) if store.identity.get(key) != identity[key]]
    if changed:
        raise RunError(
            f"{store.root} cannot be taken up again, since its rows would not belong together: {'; '.join(changed)}. "
            "Restore that, or choose another --out"
        )


def strangers(root: Path, known: set[str]) -> list[str]:
    """Names in a folder that are none of ours, nor the temporary files of one of ours."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return [name for name in names if name not in known and not name.startswith(f".{MANIFEST}.")]


def now() -> str:
    """Return the time, in UTC."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
