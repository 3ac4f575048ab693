"""Every error relprop raises on purpose, in one tree.

Under `RelpropError` stand `UsageError`, for which the command line exits with 2, and `CheckError`, with 1.

Messages say where, what was found, what is possible, and what to do.
"""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import ClassVar


class RelpropError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[int] = 2


class UsageError(RelpropError, ValueError):
    """Something that was given cannot be used."""


class CaptureError(UsageError):
    """The model cannot be turned into a graph."""


class UnsupportedOpError(UsageError):
    """A step of the graph has no rule."""


class TargetError(UsageError):
    """The class to explain does not exist."""


class InputError(UsageError):
    """A tensor or picture cannot be explained."""


class ModelError(UsageError):
    """A model name, checkpoint or file cannot be loaded."""


class DataError(UsageError):
    """A data set is missing or malformed."""


class RunError(UsageError):
    """An evaluation run cannot be started, resumed or read."""


class UnknownNameError(UsageError):
    """A name that no registry holds."""


class MissingDependencyError(UsageError, ImportError):
    """An optional library is not installed."""


class CheckError(RelpropError):
    """A check was made and failed."""

    exit_code: ClassVar[int] = 1


class ConservationError(CheckError):
    """relevance leaks."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it.

    Raises:
        MissingDependencyError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise  # the library is there, but broken: its own error says more
        raise MissingDependencyError(
            f"{module.split('.')[0]} is not installed; it comes with: {how_to_add(extra)}"
        ) from None


def version_of(name: str) -> str | None:
    """Version of an installed distribution; None where it is not installed."""
    from importlib import metadata  # which takes long to import and is rarely needed

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def how_to_add(extra: str) -> str:
    """Command that adds an extra to relprop the way that it was installed: from a folder here, or by name."""
    from importlib import metadata  # which, as urllib, takes long to import and is rarely needed
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin = json.loads(metadata.distribution("relprop").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    url, folder = str(origin.get("url", "")), origin.get("dir_info")
    if folder is None or not url.startswith("file:"):
        return f"pip install 'relprop[{extra}]'"
    path = url2pathname(urlsplit(url).path)
    return f"pip install {'-e ' * bool(folder.get('editable'))}'{path}[{extra}]'"
