"""Files and names that somebody else may have made: JSON documents, what is no regular file, what is no text."""

from __future__ import annotations

import contextlib
import json
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relprop.errors import RelpropError

LARGEST = 256 << 20
"""Bytes; a larger document is refused before it is read."""


def require_regular(path: Path, kind: type[RelpropError]) -> None:
    """Refuse pipes, devices and sockets, which can hang or have no end; a folder or a missing file is left to others.

    Raises:
        RelpropError: of the given kind.
    """
    with contextlib.suppress(OSError):  # said better by whoever opens it
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise kind(f"{path} is a pipe, device or socket, not a regular file; write what it gives into a file first")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system that names no file, as "no space left" does, name the one that was being written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def text_of(name: str) -> str:
    r"""Return a name as text: bytes that are not UTF-8, which Python keeps as lone surrogates, become `\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    r"""Return a text whose control characters are written out (`\x1b`), so that a terminal obeys none of them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def read_object(path: Path, kind: type[RelpropError]) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        RelpropError: of the given kind: there is no such file, or it is too large, no JSON, nested too deep, or no
            object.
    """
    try:
        require_regular(path, kind)
        if (size := path.stat().st_size) > LARGEST:
            raise kind(f"{path} holds {size} bytes; a JSON document of at most {LARGEST} is expected there")
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
