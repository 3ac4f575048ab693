"""Shards that are not what they claim to be are put out of the way, so that their rows are computed anew."""

from __future__ import annotations

import secrets

from relprop.evaluation.store import LOCKS, SET_ASIDE, Store, look


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
                kept = store.root / SET_ASIDE / f"{store.shard(chunk).name}.{secrets.token_hex(3)}"
                kept.parent.mkdir(exist_ok=True)
                store.shard(chunk).rename(kept)
                said.append(f"{problem}; it is kept as {kept}, and its rows are computed anew")
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
