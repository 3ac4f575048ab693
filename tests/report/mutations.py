"""A JSON document with one value replaced by another kind, value by value."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "os:abort", "\udcff\x1b[31m", [], [[]], {}, {"a": {}})
MISSING = object()


def paths(document: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value, the first two entries of a list alone."""
    yield before
    items = document.items() if isinstance(document, dict) else enumerate(document[:2])
    for key, value in items if isinstance(document, dict | list) else ():
        if isinstance(value, dict | list):
            yield from paths(value, (*before, key))
        else:
            yield (*before, key)


def mutated(document: Any, every: int = 1) -> Iterator[tuple[str, Any]]:
    """What was changed, and the document with that change; at each value one of `every` odd ones, in turn."""
    for number, way in enumerate(paths(document)):
        for odd in (*ODD, MISSING)[number % every :: every]:
            made = copy.deepcopy(document)
            if not way:
                if odd is not MISSING:
                    yield f"all is {odd!r}", odd
                continue
            place = made
            for key in way[:-1]:
                place = place[key]
            if odd is MISSING:
                del place[way[-1]]
            else:
                place[way[-1]] = odd
            yield f"{way} is {'missing' if odd is MISSING else repr(odd)}", made
