"""Pictures in Parquet: one column holds the bytes of each picture file, another its label."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from relprop.data.dataset import DATASETS, Dataset, Sample
from relprop.errors import DataError, require

_IMAGES, _LABELS = ("image", "img", "bytes"), ("label", "labels", "fine_label", "class")


@DATASETS.register("parquet")
@dataclass(frozen=True)
class Parquet:
    """Picture bytes and labels in a Parquet file, or in a folder of them.

    The picture is a binary column, or a struct with a field `bytes`. Class names are read from the metadata that the
    Hugging Face `datasets` library writes, where it is there.

    Options:
        image: column of the pictures; the first of image, img, bytes by default.
        label: column of the labels; the first of label, labels, fine_label, class by default.
    """

    image: str | None = None
    label: str | None = None

    def __call__(self, root: Path) -> Dataset:
        """Open the file or folder; ids are `FILE/00000000`, the row within the file."""
        pq = require("pyarrow.parquet", "eval")
        files = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
        if not files or not files[0].is_file():
            raise DataError(f"there is no Parquet file at {root}; give a .parquet file, or a folder that holds some")
        samples: list[Sample] = []
        tables: dict[str, Table] = {}
        classes: tuple[str, ...] | None = None
        for path in files:
            try:
                file = pq.ParquetFile(path)
            except (require("pyarrow", "eval").ArrowException, OSError) as error:
                raise DataError(f"{path} is not a Parquet file, or is damaged: {error}") from None
            image = _column(path, file.schema_arrow.names, self.image, _IMAGES, "image")
            label = _column(path, file.schema_arrow.names, self.label, _LABELS, "label")
            try:
                labels = file.read(columns=[label]).column(0).to_pylist()
            except (require("pyarrow", "eval").ArrowException, OSError) as error:
                raise DataError(f"{path} is damaged: its labels cannot be read ({error})") from None
            if any(not isinstance(value, int) or value < 0 for value in labels):
                raise DataError(f"column {label!r} of {path} holds labels that are no whole numbers from 0")
            samples += [Sample(f"{path.stem}/{row:08d}", value) for row, value in enumerate(labels)]
            tables[path.stem] = Table(path, image, _row_groups(file))
            classes = classes or _class_names(file.schema_arrow, label)
        if not samples:
            raise DataError(f"{root} holds no rows, so there is nothing to explain; give a Parquet file of pictures")
        return Dataset(f"parquet:{root}", tuple(samples), Rows(tables), classes)


@dataclass(frozen=True)
class Table:
    """One file: its column of pictures, and the first row of each row group."""

    path: Path
    column: str
    starts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """A reader for pictures in row groups; one group is held in memory at a time."""

    tables: dict[str, Table]
    _held: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False)

    def __call__(self, sample: Sample) -> bytes:
        """Return the picture file of a sample, as bytes."""
        name, _, number = sample.id.rpartition("/")
        table, row = self.tables[name], int(number)
        group = bisect_right(table.starts, row) - 1
        if (name, group) not in self._held:
            try:
                read = _open(table.path).read_row_group(group, columns=[table.column]).column(0)
            except (require("pyarrow", "eval").ArrowException, OSError) as error:
                raise DataError(f"sample {sample.id}: {table.path} is damaged ({error})") from None
            self._held.clear()
            self._held[name, group] = read
        value = self._held[name, group][row - table.starts[group]].as_py()
        found = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(found, bytes):
            raise DataError(f"sample {sample.id} of {table.path} holds no picture bytes in column {table.column!r}")
        return found


@lru_cache(maxsize=1)
def _open(path: Path) -> Any:
    return require("pyarrow.parquet", "eval").ParquetFile(path)


def _row_groups(file: Any) -> tuple[int, ...]:
    """First row of each row group."""
    starts = [0]
    for group in range(file.metadata.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return tuple(starts[:-1])


def _column(path: Path, names: list[str], given: str | None, usual: tuple[str, ...], kind: str) -> str:
    """Return the column that was named, or the first usual one."""
    found = next((name for name in ([given] if given else usual) if name in names), None)
    if found is None:
        raise DataError(
            f"{path} has no {kind} column {given or ' or '.join(usual)!r}; it has {', '.join(names)}. "
            f"Name it: parquet:{path}:{kind}=NAME"
        )
    return found


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Class names as the `datasets` library stores them in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
