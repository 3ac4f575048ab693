"""One shard: the rows of a chunk as Parquet, sealed with a checksum, and what is wrong with one that is found.

The checksum is over the bytes of the file, and is compared before anything reads them as Parquet: a reader that meets a
damaged file may end the process. It stands in the file's own footer and is computed with zeros in its place, so that a
shard stays one file, renamed into place at once. It finds damage and confusion; who forges a shard can forge it too.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from typing import TYPE_CHECKING, Any

from relprop.errors import require
from relprop.evaluation.rows import Row, frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from relprop.evaluation.plan import Plan

_SEAL, _DIGITS = b"relprop-sha256:", 64
_OURS = "relprop."
_NAMED = ("explainer", "post", "metric", "protocol", "ties")


def origin(plan: Plan, identity: Mapping[str, Any], chunk: int) -> dict[str, str]:
    """Return what a shard says of where it belongs: plan, number, and all else that decides its rows."""
    named = {"plan": plan.digest, "chunk": str(chunk)}
    return named | {key: json.dumps(value, sort_keys=True) for key, value in identity.items()}


def sealed(rows: Sequence[Row], facts: Mapping[str, str]) -> bytes:
    """Return the content of a shard's file: its rows, the facts about it, and the checksum."""
    metadata = {f"{_OURS}{key}": value for key, value in facts.items()}
    blank = _SEAL.decode() + "0" * _DIGITS
    buffer = io.BytesIO()
    frame(rows).write_parquet(buffer, metadata={**metadata, f"{_OURS}checksum": blank})
    content = buffer.getvalue()
    at = content.rindex(_SEAL) + len(_SEAL)
    return content[:at] + hashlib.sha256(content).hexdigest().encode() + content[at + _DIGITS :]


def sample_ids(path: Path, expected: Mapping[str, str], plan: Plan, count: int | None) -> set[str]:
    """Read a shard, whose `origin` is `expected`, and return the ids of its samples, `count` where the run says.

    Raises:
        ValueError: what is wrong with it, as the end of a sentence that begins with the file.
    """
    found, table = _read(_content(path))
    for key, value in expected.items():
        said = found.get(f"{_OURS}{key}", "not stated")
        if said != value:
            raise ValueError(f"belongs elsewhere: its {key} is {said}, that of this run and place is {value}")
    return _checked(table, plan, count)


def _read(content: bytes) -> tuple[dict[str, str], pl.DataFrame]:
    polars = require("polars", "eval")
    try:
        return polars.read_parquet_metadata(io.BytesIO(content)), polars.read_parquet(io.BytesIO(content))
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        raise ValueError(f"cannot be read as Parquet ({type(error).__name__})") from None


def _content(path: Path) -> bytes:
    """Read a shard's bytes, having compared them with their checksum."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("is no regular file")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None
    at = content.rfind(_SEAL) + len(_SEAL)
    if content[:4] != b"PAR1" or content[-4:] != b"PAR1":
        raise ValueError(f"is truncated, or is no Parquet file ({len(content)} bytes)")
    if at < len(_SEAL):
        raise ValueError("carries no checksum, so this version of `relprop evaluate` did not write it")
    blank = content[:at] + b"0" * _DIGITS + content[at + _DIGITS :]
    if hashlib.sha256(blank).hexdigest().encode() != content[at : at + _DIGITS]:
        raise ValueError("is damaged: its bytes are not those that were written (another SHA-256)")
    return content


def _checked(table: pl.DataFrame, plan: Plan, count: int | None) -> set[str]:
    """Compare columns, counts and names with what the plan asks for."""
    if table.schema != (schema := frame([]).schema):
        raise ValueError(f"has the columns {_named(table.schema)}, not {_named(schema)}")
    if table.select("sample", *_NAMED).is_duplicated().any():
        raise ValueError("holds rows twice")
    for column, known in (("explainer", plan.explainers), ("post", plan.post), ("protocol", ("", *plan.protocols))):
        if odd := sorted(set(table[column].to_list()) - set(known), key=str):
            raise ValueError(f"holds rows of the {column} {odd[0]!r}, which the plan does not name")
    rows = table.group_by("sample").len()
    if count is not None and rows.height != count:
        raise ValueError(f"holds {rows.height} samples, not {count}")
    if len(counts := sorted(set(rows["len"].to_list()))) > 1:
        raise ValueError(f"holds {counts[0]} rows of one sample and {counts[-1]} of another")
    return set(rows["sample"].to_list())


def _named(schema: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in schema.items())
