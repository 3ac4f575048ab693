"""The state of a run directory: which chunks are there and whole, which are missing, which are not what they claim."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relprop.evaluation.shards import origin, sample_ids
from relprop.evaluation.store import LOCKS, SET_ASIDE, SHARDS

if TYPE_CHECKING:
    from relprop.evaluation.store import Store


@dataclass(frozen=True)
class State:
    """What was found in a run directory.

    Attributes:
        whole: chunks whose shard is there, and is what it claims to be.
        missing: chunks without a shard.
        damaged: for each other chunk, a sentence that names the file and says what is wrong with it.
        strangers: names in the folder of shards that belong to no chunk, nor to a write that was killed.
    """

    whole: tuple[int, ...]
    missing: tuple[int, ...]
    damaged: Mapping[int, str]
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


def set_aside(store: Store) -> tuple[str, ...]:
    """Move shards that are not what they claim out of the way, so that their chunks are computed anew.

    They are kept, in a folder of their own. A chunk that somebody is working on is left to them.

    Returns:
        For each a sentence that names the file, and says what was wrong with it and where it is now.
    """
    from filelock import FileLock, Timeout

    before = {chunk: _stamp(store, chunk) for chunk in range(store.chunks)}
    said = []
    for chunk, problem in look(store).damaged.items():
        try:
            with FileLock(store.root / LOCKS / f"{chunk:05d}.lock", timeout=0):
                if _stamp(store, chunk) != before[chunk]:
                    continue  # somebody else has replaced it meanwhile
                place = store.root / SET_ASIDE / f"{store.shard(chunk).name}.{secrets.token_hex(3)}"
                place.parent.mkdir(exist_ok=True)
                store.shard(chunk).rename(place)
                said.append(f"{problem}; it is kept as {place}, and its rows are computed anew")
        except Timeout:
            continue
    return tuple(said)


def _stamp(store: Store, chunk: int) -> tuple[int, int] | None:
    """Tell one file under a chunk's name from another."""
    try:
        found = store.shard(chunk).lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _ids(store: Store, chunk: int) -> set[str]:
    count = None if store.samples is None else min(store.plan.batch, store.samples - chunk * store.plan.batch)
    return sample_ids(store.shard(chunk), origin(store.plan, store.identity, chunk), store.plan, count)
