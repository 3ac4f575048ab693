"""Caltech-UCSD Birds-200-2011, as distributed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relprop.data.dataset import DATASETS, Box, Dataset, Files, Part, Sample
from relprop.errors import DataError


@DATASETS.register("cub")
@dataclass(frozen=True)
class Cub:
    """CUB-200-2011 as distributed, with boxes and visible parts.

    Options:
        split: `test` (5,794 pictures, the default), `train` (5,994) or `all`.
    """

    split: Literal["test", "train", "all"] = "test"

    def __call__(self, root: Path) -> Dataset:
        """Open the folder `CUB_200_2011`, or the one that holds it; ids are the paths in images.txt."""
        home = next((folder for folder in (root, root / "CUB_200_2011") if (folder / "images.txt").is_file()), None)
        if home is None:
            raise DataError(
                f"there is no images.txt in {root}; download CUB_200_2011.tgz from "
                "https://www.vision.caltech.edu/datasets/cub_200_2011/ and unpack it there, so that there is "
                f"{root / 'CUB_200_2011' / 'images.txt'}"
            )
        names = {key: words[0] for key, words in _table(home, "images.txt")}
        labels = {key: int(words[0]) - 1 for key, words in _table(home, "image_class_labels.txt")}
        training = {key: words[0] == "1" for key, words in _table(home, "train_test_split.txt")}
        boxes = {key: _box(words) for key, words in _table(home, "bounding_boxes.txt")}
        for name, table in (("image_class_labels", labels), ("train_test_split", training), ("bounding_boxes", boxes)):
            if missing := names.keys() - table.keys():
                raise DataError(f"{home / name}.txt lacks {len(missing)} ids of images.txt, such as {min(missing)}")
        parts = _parts(home)
        samples = tuple(
            Sample(name, labels[key], (boxes[key],), tuple(parts[key]))
            for key, name in names.items()
            if self.split == "all" or training[key] == (self.split == "train")
        )
        classes = tuple(words[0] for _, words in _table(home, "classes.txt"))
        files = {sample.id: home / "images" / sample.id for sample in samples}
        return Dataset(f"cub:{home}:split={self.split}", samples, Files(files), classes)


def _table(home: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the first word of each line, and the others."""
    path = home / name
    if not path.is_file():
        raise DataError(f"{path} is missing; unpack CUB_200_2011.tgz again")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if len(words) < 2:
            raise DataError(f"line {number} of {path} is {line!r}; it should be an id and a value")
        yield words[0], words[1:]


def _box(words: list[str]) -> Box:
    left, top, width, height = map(float, words)
    return left, top, width, height


def _parts(home: Path) -> defaultdict[str, list[Part]]:
    """Visible parts by picture; none where parts/ was not unpacked."""
    found: defaultdict[str, list[Part]] = defaultdict(list)
    if not (home / "parts" / "part_locs.txt").is_file():
        return found
    names = {key: " ".join(words) for key, words in _table(home, "parts/parts.txt")}
    for key, (part, x, y, visible) in _table(home, "parts/part_locs.txt"):
        if visible == "1":
            found[key].append(Part(names[part], float(x), float(y)))
    return found
