"""What the paper prints, as values."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from relprop.errors import UsageError

Against = Literal["imagenet", "cub"]
METRICS = ("insertion", "deletion", "id")


@dataclass(frozen=True)
class Printed:
    """One row of a published table."""

    key: str  # short, for the code
    name: str  # as the paper calls it
    values: tuple[float, float, float]  # insertion, deletion and ID, in the table's unit
    # their standard deviations over models; None where one model was measured
    deviations: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Published:
    """A published table, for one network and data set."""

    title: str
    percent: bool  # whether values are percent; fractions else
    network: str
    data: str
    samples: int  # pictures
    models: int  # how many were trained
    rows: tuple[Printed, ...]  # in the paper's order

    @property
    def scale(self) -> float:
        """Factor from a fraction to the table's unit."""
        return 100.0 if self.percent else 1.0

    def row(self, key: str) -> Printed:
        """Return the row called `key`."""
        return next(row for row in self.rows if row.key == key)


def published(table: str, against: Against = "imagenet") -> Published:
    """Read a table of the paper.

    Raises:
        UsageError: the paper measured this on other data alone.
    """
    found = _document()[table]
    if against not in found:
        raise UsageError(f"the paper gives {table} for ImageNet alone; leave --against {against} out")
    rows = tuple(_row(row, against) for row in found["rows"])
    return Published(found["title"], found["unit"] == "percent", rows=rows, **found[against])


def _row(row: dict[str, Any], against: str) -> Printed:
    deviations = row.get(f"{against}_deviation")
    return Printed(row["key"], row["name"], tuple(row[against]), None if deviations is None else tuple(deviations))


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads((files("relprop.reproduce") / "published.toml").read_text(encoding="utf-8"))
