"""JSON documents that somebody else may have written."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from relprop.errors import RelpropError

LARGEST = 256 << 20
"""Bytes; a larger document is refused before it is read."""


def read_object(path: Path, kind: type[RelpropError]) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        RelpropError: of the given kind: there is no such file, or it is too large, no JSON, nested too deep, or no
            object.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise kind(f"{path} is no regular file; a JSON document is expected there")
        if found.st_size > LARGEST:
            raise kind(f"{path} holds {found.st_size} bytes; a JSON document of at most {LARGEST} is expected there")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, kind):
            raise
        raise kind(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise kind(f"{path} cannot be read: it is nested too deep") from None
    if not isinstance(document, dict):
        raise kind(f"{path} holds a {type(document).__name__}, not a JSON object")
    return document
