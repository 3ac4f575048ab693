"""Pictures in folders, one folder a class, or in one folder with the class in the name of the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relprop.data.dataset import DATASETS, Dataset, Files, Sample, pictures_in
from relprop.data.imagenet import class_list
from relprop.documents import text_of
from relprop.errors import DataError

_NUMBERED = re.compile(r"(?P<label>\d+)_(?:(?P<wnid>n\d{8})_)?(?P<name>.*)")


@DATASETS.register("folder")
@dataclass(frozen=True)
class Folder:
    """Pictures in one folder a class, or named INDEX_name.jpg in one folder.

    Options:
        labels: `folders`: the label is the index of the folder's name among all, sorted (as torchvision's ImageFolder);
            `names`: the label is the number that the file's name starts with, as in `0207_n02099601_golden.JPEG`;
            `auto`: `folders` where there are any with pictures, else `names`.
    """

    labels: Literal["auto", "folders", "names"] = "auto"

    def __call__(self, root: Path) -> Dataset:
        """Open the folder; ids are paths within it."""
        if not root.is_dir():
            raise DataError(f"there is no folder {root}; {_WANTED}")
        if self.labels == "folders" or (self.labels == "auto" and not pictures_in(root)):
            return _by_folder(root)
        return _by_name(root)


_MOST = 1_000_000
"""The largest number of a class: a network has one output for each."""

_WANTED = (
    "put pictures in one folder a class (ROOT/cat/1.jpg, ROOT/dog/2.jpg), or in ROOT itself with the class in front of "
    "their names (ROOT/0_cat.jpg, ROOT/1_dog.jpg)"
)


def _by_folder(root: Path) -> Dataset:
    """Labels from folders: one class each, empty ones included, sorted by name."""
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    paths: dict[str, Path] = {}
    samples: list[Sample] = []
    for label, name in enumerate(names):
        for folder in sorted({root / name, *(entry for entry in (root / name).rglob("*") if entry.is_dir())}):
            for path in pictures_in(folder):
                key = text_of(path.relative_to(root).as_posix())
                paths[key] = path
                samples.append(Sample(key, label))
    if not samples:
        raise DataError(f"{root} holds no pictures; {_WANTED}")
    return Dataset(f"folder:{root}", tuple(samples), Files(paths), tuple(map(text_of, names)))


def _by_name(root: Path) -> Dataset:
    """Labels from names; synset names get ImageNet's class names where number and synset agree throughout."""
    files = pictures_in(root)
    matches = [(path, _NUMBERED.match(path.stem)) for path in files]
    unnamed = [path.name for path, match in matches if match is None]
    if unnamed:
        raise DataError(
            f"{len(unnamed)} of {len(files)} pictures in {root} do not start with the number of their class, "
            f"such as {unnamed[0]}; {_WANTED}"
        )
    if not files:
        raise DataError(f"{root} holds no pictures; {_WANTED}")
    found = [(path, match) for path, match in matches if match is not None]
    samples = tuple(Sample(text_of(path.name), int(match["label"])) for path, match in found)
    wnids = [(int(match["label"]), match["wnid"]) for _, match in found]
    known = class_list()
    if all(label < len(known) and known[label][0] == wnid for label, wnid in wnids):
        classes = tuple(name for _, name in known)
    else:
        names = {int(match["label"]): match["name"] or match["label"] for _, match in reversed(found)}
        if max(names) > _MOST:
            raise DataError(
                f"{names[max(names)]!r} in {root} is of class {max(names)}; classes are counted up to {_MOST}"
            )
        classes = tuple(text_of(names.get(label, str(label))) for label in range(max(names) + 1))
    return Dataset(f"folder:{root}", samples, Files({text_of(path.name): path for path in files}), classes)
