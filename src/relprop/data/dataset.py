"""What a data set is: labelled samples with stable ids, a way to read the picture of each, and a choice of some."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relprop.errors import DataError, InputError, UsageError
from relprop.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
"""Left, top, width, height, in pixels of the picture as stored."""


@dataclass(frozen=True, slots=True)
class Part:
    """A named point of the object, in pixels of the picture as stored."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        id: its name, unique in the data set, the same on every machine and in every layout of the files.
        label: index of its class, from 0.
        boxes: where the object is; empty where the data set does not say.
        parts: the visible parts of the object.
    """

    id: str
    label: int
    boxes: tuple[Box, ...] = ()
    parts: tuple[Part, ...] = ()


Reader = Callable[[Sample], "Path | bytes | Image"]
"""Where the picture of a sample is: a file, the bytes of one, or the decoded picture."""


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures.

    Attributes:
        name: what it is called in messages and manifests.
        samples: in a fixed order.
        read: where a sample's picture is.
        classes: name of each label; None where the data set does not say.
    """

    name: str
    samples: tuple[Sample, ...]
    read: Reader
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def has_boxes(self) -> bool:
        """Whether every sample says where its object is."""
        return bool(self.samples) and all(sample.boxes for sample in self.samples)

    def load(self, sample: Sample) -> Image:
        """Read the picture of a sample, as RGB.

        Raises:
            DataError: the file is not there, or is not a picture.
        """
        from relprop.images import read_image

        try:
            found = self.read(sample)
            return read_image(found) if isinstance(found, Path | bytes) else found.convert("RGB")
        except (InputError, OSError) as error:
            raise DataError(f"sample {sample.id} of {self.name} cannot be read: {error}") from None


Opener = Callable[[Path], Dataset]
"""How a kind of data set is opened: a frozen dataclass of its options, called with the root."""

DATASETS: Registry[Opener] = Registry("kind of data set")


def open_dataset(spec: str) -> Dataset:
    """Open the data set that `spec` describes: `KIND:ROOT`, then options as `:name=value`.

    For example `cub:/data/CUB_200_2011:split=train`. The root may hold colons.

    Raises:
        UnknownNameError: no such kind.
        UsageError: an option that the kind does not have, or no root.
        DataError: the files are missing or malformed; the message says what to download and where to put it.
    """
    kind, _, rest = spec.partition(":")
    DATASETS.get(kind)  # an unknown kind is the first thing to complain about
    pieces = rest.split(":")
    first_option = len(pieces)
    while first_option > 1 and "=" in pieces[first_option - 1] and "/" not in pieces[first_option - 1]:
        first_option -= 1
    root = ":".join(pieces[:first_option])
    if not root:
        raise UsageError(f"data set {spec!r} names no path; write {kind}:PATH ({DATASETS.summary(kind)})")
    return DATASETS.build(":".join([kind, *pieces[first_option:]]))(Path(root).expanduser())


@dataclass(frozen=True)
class Files:
    """A reader for pictures that are files: from id to path."""

    paths: dict[str, Path]

    def __call__(self, sample: Sample) -> Path:
        """Return the file of a sample."""
        return self.paths[sample.id]


def pictures_in(folder: Path) -> list[Path]:
    """All picture files directly in `folder`, sorted by name; hidden ones left out."""
    from relprop.images import SUFFIXES

    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if not path.is_dir())


def first_existing(candidates: Sequence[Path]) -> Path | None:
    """Return the first of the paths that exists."""
    return next((path for path in candidates if path.exists()), None)


def balanced(samples: Sequence[Sample], n: int | None, seed: int = 0) -> tuple[Sample, ...]:
    """Choose `n` samples, equally many of each class, in the order of the data set.

    Dealt like cards: every class shuffles its samples, the classes line up in shuffled order, and in each round
    every class that has one left gives one, until `n` are taken. So a remainder (n not a multiple of the number of
    classes) goes to classes chosen by the seed, and what a small class cannot give is spread over the others.
    Shuffling sorts by a hash of (seed, id): it depends on nothing else, neither machine nor library version.

    None takes all samples.

    Raises:
        DataError: fewer than one, or more than there are.
    """
    if n is None:
        return tuple(samples)
    if not 1 <= n <= len(samples):
        raise DataError(f"{n} samples were asked for; the data set holds {len(samples)}: ask for 1 to {len(samples)}")
    classes: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        classes[sample.label].append(sample)
    order = sorted(classes, key=lambda label: _draw(seed, "class", str(label)))
    rank = {label: at for at, label in enumerate(order)}
    dealt = [
        (number, rank[label], sample.id)
        for label, members in classes.items()
        for number, sample in enumerate(sorted(members, key=lambda one: _draw(seed, "sample", one.id)))
    ]
    chosen = {name for _, _, name in sorted(dealt)[:n]}
    return tuple(sample for sample in samples if sample.id in chosen)


def _draw(seed: int, what: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{what}/{name}".encode()).digest()
