"""Options that belong together, as one argument of a command: a dataclass stands for one option a field.

def check(*, model: Name = None, network: options.Network, json: options.Json = False) -> int: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def spread(command: Callable[..., int]) -> Callable[..., int]:
    """Return the command as typer can read it: with the fields of its groups in place of the groups."""
    parameters = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in parameters.items() if is_dataclass(one.annotation)}

    @wraps(command)
    def call(**given: Any) -> int:
        made = {name: kind(**{part: given.pop(part) for part in _fields(kind)}) for name, kind in groups.items()}
        return command(**given, **made)

    flat: dict[str, inspect.Parameter] = {}
    for name, one in parameters.items():
        flat |= _fields(groups[name]) if name in groups else {name: one.replace(kind=one.KEYWORD_ONLY)}
    call.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]
    return call


def _fields(kind: Any) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    found = inspect.signature(kind).parameters.items()
    return {name: one.replace(kind=one.KEYWORD_ONLY, annotation=hints[name]) for name, one in found}
