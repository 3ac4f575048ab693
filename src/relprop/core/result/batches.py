"""Large batches in parts: as many images at a time as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from relprop.core.result.relevance import Relevance
from relprop.shortage import is_out_of_memory

#: explains images with what belongs to them (targets, start): one result for each composite
Explain = Callable[[Any, Any, Any], tuple[Relevance, ...]]


@dataclass(eq=False)
class Chunks:
    """How many images are explained at a time.

    Attributes:
        size: at most so many; None for all. Halved, and remembered, whenever memory is short.
    """

    size: int | None = None

    def explain(self, x: Any, target: Any, start: Any, explain: Explain) -> tuple[Relevance, ...]:
        """Explain a batch in as many parts as it takes, and put the results together."""
        count, at = len(x), 0
        parts: list[tuple[Relevance, ...]] = []
        while at < count:
            size = min(self.size or count, count - at)
            piece = slice(at, at + size)
            whole = size == count
            given = (target, start) if whole else (part_of(target, piece, count), part_of(start, piece, count))
            try:
                parts.append(explain(x if whole else x[piece], *given))
            except (RuntimeError, ValueError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    error.add_note("relprop: memory is too short to explain even one image of this size")
                    raise
                self.size = size // 2
                continue
            at += size
        return tuple(Relevance.cat(results) for results in zip(*parts, strict=True))


def part_of(given: Any, piece: slice, count: int) -> Any:
    """The part of targets, or of a start, that belongs to some of `count` images; what is for all goes to each."""
    if isinstance(given, Tensor):
        return given[piece] if given.dim() > 0 and len(given) == count else given
    if isinstance(given, Sequence) and not isinstance(given, str):
        return given[piece] if len(given) == count else given
    if is_dataclass(given) and not isinstance(given, type):
        parts = {f.name: part_of(getattr(given, f.name), piece, count) for f in fields(given) if f.init}
        return replace(given, **parts)
    return given
