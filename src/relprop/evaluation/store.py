"""A run directory: one Parquet shard for each chunk of samples, and what is known about the run.

    RUN/manifest.json       the plan, and all that its rows depend on; written once
    RUN/shards/00012.parquet   all rows of chunk 12
    RUN/sessions/*.json     who worked on the run, when, with which command
    RUN/locks/              held while somebody works on a chunk; empty when the run is finished
    RUN/set-aside/          shards that were found damaged or of another run, if there were any

A shard is a function of (plan, number) alone, and appears under its name by an atomic rename when it is whole. Nothing
is ever changed after that, and nothing is read before it was verified (`look`). So a run may be
killed at any moment and taken up again, and even two processes that computed the same chunk would write the same file:
locks save work, correctness does not hang on them.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from relprop.documents import read_object
from relprop.errors import RunError, UsageError, require
from relprop.evaluation.plan import Plan
from relprop.evaluation.rows import Row
from relprop.evaluation.shards import origin, sample_ids, sealed
from relprop.files import write_atomically, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from relprop.evaluation.tables import Summary

MANIFEST, SHARDS, SESSIONS, LOCKS, SET_ASIDE = "manifest.json", "shards", "sessions", "locks", "set-aside"
MOST_CHUNKS = 1_000_000
"""A manifest that counts more is refused: no folder holds so many files."""


@dataclass(frozen=True)
class Store:
    """A run directory that has begun."""

    root: Path  # the directory
    plan: Plan  # what is run
    chunks: int  # how many chunks the samples make
    identity: dict[str, Any]  # all else that decides the rows: digests of samples and weights, versions
    samples: int | None = None  # how many there are; None where the manifest does not say

    def shard(self, chunk: int) -> Path:
        """Return the file of a chunk's rows."""
        return self.root / SHARDS / f"{chunk:05d}.parquet"

    def missing(self) -> list[int]:
        """Return the chunks that are not done."""
        names = {path.name for path in (self.root / SHARDS).iterdir()}
        return [chunk for chunk in range(self.chunks) if self.shard(chunk).name not in names]

    def done(self) -> tuple[int, int]:
        """Return how many samples are done, and how many there are."""
        missing, batch = self.missing(), self.plan.batch
        total = self.chunks * batch if self.samples is None else self.samples
        left = sum(min(batch, total - chunk * batch) for chunk in missing)
        return total - left, total

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
        content = sealed(rows, {**origin(self.plan, self.identity, chunk), **facts})
        write_atomically(self.shard(chunk), lambda path: path.write_bytes(content))

    def rows(self, chunks: Iterable[int] | None = None) -> pl.LazyFrame:
        """Return all rows that are there, in the order of the samples.

        Args:
            chunks: those to read, which somebody has verified; by default all are verified first.

        Raises:
            RunError: there are none yet, or a shard is not what it claims to be.
        """
        polars = require("polars", "eval")
        if chunks is None:
            state = look(self)
            if state.damaged:
                raise RunError(f"{next(iter(state.damaged.values()))}; `relprop evaluate` computes its rows anew")
            chunks = state.whole
        there = [self.shard(chunk) for chunk in chunks]
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

    The directory is made if it is not there; `facts` are for the reader of the manifest only.

    Raises:
        RunError: the directory holds another run, or something else.
    """
    from filelock import FileLock

    known = {MANIFEST, SHARDS, SESSIONS, LOCKS, SET_ASIDE}
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
    return Store(root, plan, chunks, identity, facts.get("samples"))


def open_run(root: Path) -> Store:
    """Open a run that has begun.

    Raises:
        RunError: there is none.
    """
    document = manifest(root)
    wrong = f"{root / MANIFEST} was not written by `relprop evaluate`, or was changed since"
    try:
        plan, chunks, identity = Plan.from_json(document["plan"]), document["chunks"], document["identity"]
        digest, samples = document["digest"], document.get("samples")
    except KeyError as missing:
        raise RunError(f"{wrong}: it lacks {missing}") from None
    except UsageError as error:
        raise RunError(f"{wrong}: {error}") from None
    if digest != plan.digest:
        raise RunError(f"{wrong}: its plan has the digest {plan.digest}, and it says {digest}")
    if not isinstance(identity, dict):
        raise RunError(f"{wrong}: its identity is a {type(identity).__name__}, not an object")
    for name, value in (("chunks", chunks), ("samples", samples)):
        if type(value) is not int and not (name == "samples" and value is None):
            raise RunError(f"{wrong}: its {name} are {value!r}, not a whole number")
    if not 0 <= chunks <= MOST_CHUNKS or (samples is not None and -(-samples // plan.batch) != chunks):
        raise RunError(f"{wrong}: it counts {chunks} chunks of {plan.batch} for {samples} samples")
    return Store(root, plan, chunks, identity, samples)


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
    if not (root / MANIFEST).exists():
        raise RunError(f"{root} is no run directory (no {MANIFEST} in it); `relprop evaluate --out` makes one")
    return read_object(root / MANIFEST, RunError)


@dataclass(frozen=True)
class State:
    """What was found in a run directory."""

    whole: tuple[int, ...]  # chunks whose shard is there, and is what it claims to be
    missing: tuple[int, ...]  # chunks without a shard
    damaged: Mapping[int, str]  # for each other chunk, a sentence that names the file and says what is wrong with it
    # names in the folder of shards that belong to no chunk, nor to a write that was killed
    strangers: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every chunk is there and whole, and nothing else lies among them."""
        return not (self.missing or self.damaged or self.strangers)


def look(store: Store) -> State:
    """Verify every shard of a run: checksum, plan, number, identity, columns, counts, samples that another holds."""
    missing = set(store.missing())
    found: dict[int, set[str]] = {}
    damaged: dict[int, str] = {}
    seen: dict[str, int] = {}
    for chunk in range(store.chunks):
        if chunk in missing:
            continue
        try:
            ids = _ids(store, chunk)
            if twice := next((name for name in sorted(ids) if name in seen), None):
                raise ValueError(f"holds the sample {twice!r}, which {store.shard(seen[twice]).name} holds too")
        except ValueError as error:
            damaged[chunk] = f"{store.shard(chunk)} {error}"
        else:
            found[chunk] = ids
            seen |= dict.fromkeys(ids, chunk)
    names = {store.shard(chunk).name for chunk in range(store.chunks)}
    others = {path.name for path in (store.root / SHARDS).iterdir()} - names
    strangers = sorted(name for name in others if not any(name.startswith(f".{ours}.") for ours in names))
    return State(tuple(found), tuple(sorted(missing)), damaged, tuple(strangers))


def _ids(store: Store, chunk: int) -> set[str]:
    count = None if store.samples is None else min(store.plan.batch, store.samples - chunk * store.plan.batch)
    return sample_ids(store.shard(chunk), origin(store.plan, store.identity, chunk), store.plan, count)


def summary_of(store: Store, versus: str | None = None, state: State | None = None) -> Summary:
    """Average the rows of a run, finished or not: see `relprop.evaluation.summary.summarise`.

    Shards that are not what they claim to be are left out, and the summary says so.
    """
    from relprop.evaluation.summary import summarise

    state = state or look(store)
    if state.damaged and not state.whole:
        raise RunError(f"no shard of {store.root} can be used: {next(iter(state.damaged.values()))}")
    left = store.chunks - len(state.whole)
    done = f"NOT FINISHED: {store.chunks - left} of {store.chunks} chunks" if left else ""
    out = [f"{problem}; its rows are left out" for problem in state.damaged.values()]
    out += [f"{store.root / SHARDS / name} belongs to no chunk of this run and is left out" for name in state.strangers]
    summary = summarise(store.rows(state.whole), store.plan, versus, done)
    return replace(summary, left_out=tuple(out), notes=(*out, *summary.notes))


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
