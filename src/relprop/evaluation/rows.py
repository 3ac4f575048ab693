"""The outcome of an evaluation: one row per sample, explainer, post-processing, metric row and protocol."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from relprop.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl

    from relprop.evaluation.plan import Plan
    from relprop.evaluation.tables import Summary


@dataclass(frozen=True, slots=True)
class Row:
    """One value, or the reason why there is none.

    Attributes:
        sample: id of the sample.
        label: its class.
        target: the class that was explained; None where the picture could not be read.
        explainer: spec.
        post: spec of the post-processing.
        metric: name of the value, e.g. "insertion".
        protocol: spec of the masking protocol; "" for a metric that masks nothing.
        ties: how the protocol orders pixels of one value; "" likewise.
        value: finite, or None.
        error: why there is no value.
        curve: what the value was computed from, if curves are kept.
    """

    sample: str
    label: int
    target: int | None
    explainer: str
    post: str
    metric: str
    protocol: str
    ties: str
    value: float | None
    error: str | None = None
    curve: tuple[float, ...] | None = None


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Rows:
    """Rows in memory, with the plan that they belong to."""

    plan: Plan
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_polars(self) -> pl.DataFrame:
        """Return the rows as a polars frame, one column for each field of `Row`."""
        return frame(self.rows)

    def to_pandas(self) -> Any:
        """Return the rows as a pandas `DataFrame`, one column for each field of `Row`."""
        pandas = require("pandas", "eval")
        return pandas.DataFrame([asdict(row) for row in self.rows], columns=list(COLUMNS))

    def summary(self, versus: str | None = None) -> Summary:
        """Average them: see `relprop.evaluation.summary.summarise`."""
        from relprop.evaluation.summary import summarise

        return summarise(self.to_polars().lazy(), self.plan, versus=versus)


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Return rows as a polars frame."""
    polars = require("polars", "eval")
    types = {
        "label": polars.Int64,
        "target": polars.Int64,
        "value": polars.Float64,
        "curve": polars.List(polars.Float32),
    }
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    made: pl.DataFrame = polars.DataFrame(columns, schema={name: types.get(name, polars.String) for name in COLUMNS})
    return made
