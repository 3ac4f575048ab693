"""The ILSVRC2012 validation set, in the layouts in which it is found on disks."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from relprop.data.dataset import DATASETS, Box, Dataset, Files, Sample, first_existing, pictures_in
from relprop.errors import DataError, require

_FOLDERS = ("val", "", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "ILSVRC2012_img_val", "images/val")
_WNID = re.compile(r"n\d{8}")
_OFFICIAL = re.compile(r"ILSVRC2012_val_(\d{8})")


@DATASETS.register("imagenet")
@dataclass(frozen=True)
class ImageNet:
    """ILSVRC2012 validation pictures, in synset folders or all in one folder with a list of labels.

    Labels are positions among the 1,000 sorted synsets, as every published network has them. Ids are the official names
    (`ILSVRC2012_val_00000001`), whatever the layout. In one folder, the labels come from the first of these that lies
    in the root, beside the pictures, or in the unpacked development kit:
    `LOC_val_solution.csv` (Kaggle; it also gives boxes), `ILSVRC2012_validation_ground_truth.txt` with `meta.mat`
    (the development kit), `val.txt` (Caffe).
    """

    def __call__(self, root: Path) -> Dataset:
        """Open the validation set under `root`."""
        for folder in _FOLDERS:
            if not (root / folder).is_dir():
                continue
            folders = sorted(entry for entry in (root / folder).iterdir() if _WNID.fullmatch(entry.name))
            if folders:
                return _dataset(root, _from_folders(folders))
            pictures = [path for path in pictures_in(root / folder) if _OFFICIAL.fullmatch(path.stem)]
            if pictures:
                return _dataset(root, _from_one_folder(root, pictures))
        raise DataError(f"there are no ILSVRC2012 validation pictures in {root}; {_WANTED}")


_WANTED = (
    "download ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from https://image-net.org/download-images (it "
    "asks for an account), unpack the first in ROOT/val and the second in ROOT, so that there are "
    "ROOT/val/ILSVRC2012_val_00000001.JPEG and ROOT/ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt; "
    "synset folders (ROOT/val/n01440764/...) and Kaggle's layout are read as well"
)


@cache
def class_list() -> tuple[tuple[str, str], ...]:
    """Synset and class name of each of ImageNet's 1,000 labels."""
    lines = (files("relprop.data") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple((line[:9], line[10:]) for line in lines)


@cache
def label_of() -> dict[str, int]:
    """From synset to label."""
    return {wnid: label for label, (wnid, _) in enumerate(class_list())}


def _dataset(root: Path, found: Iterable[tuple[Path, Sample]]) -> Dataset:
    pairs = sorted(found, key=lambda pair: pair[1].id)
    paths = {sample.id: path for path, sample in pairs}
    if not pairs:
        raise DataError(f"the synset folders in {root} hold no pictures; {_WANTED}")
    if len(paths) < len(pairs):
        raise DataError(f"{len(pairs) - len(paths)} pictures in {root} are there twice; remove the copies")
    classes = tuple(name for _, name in class_list())
    return Dataset(f"imagenet:{root}", tuple(sample for _, sample in pairs), Files(paths), classes)


def _from_folders(folders: list[Path]) -> Iterator[tuple[Path, Sample]]:
    strange = [folder.name for folder in folders if folder.name not in label_of()]
    if strange:
        raise DataError(
            f"{len(strange)} folders in {folders[0].parent} are none of ImageNet's 1,000 synsets, e.g. {strange[0]}; "
            "use folder:ROOT for other classes"
        )
    for folder in folders:
        for path in pictures_in(folder):
            name = path.stem if _OFFICIAL.fullmatch(path.stem) else f"{folder.name}/{path.name}"
            yield path, Sample(name, label_of()[folder.name])


def _from_one_folder(root: Path, pictures: list[Path]) -> Iterator[tuple[Path, Sample]]:
    known = _labels(root, pictures[0].parent)
    missing = [path.name for path in pictures if path.stem not in known]
    if missing:
        raise DataError(f"the list of labels in {root} lacks {len(missing)} pictures, such as {missing[0]}")
    for path in pictures:
        label, boxes = known[path.stem]
        yield path, Sample(path.stem, label, boxes)


def _labels(root: Path, beside: Path) -> dict[str, tuple[int, tuple[Box, ...]]]:
    """Label and boxes by official name, from whichever list is there."""
    kit = Path("ILSVRC2012_devkit_t12/data")
    folders = [root, beside, beside.parent, root / kit, beside.parent / kit, root / "devkit/data", root / "data"]
    if (kaggle := first_existing([folder / "LOC_val_solution.csv" for folder in folders])) is not None:
        return dict(_read_kaggle(kaggle))
    if (truth := first_existing([folder / "ILSVRC2012_validation_ground_truth.txt" for folder in folders])) is not None:
        return dict(_read_kit(truth, first_existing([folder / "meta.mat" for folder in [truth.parent, *folders]])))
    if (caffe := first_existing([folder / "val.txt" for folder in folders])) is not None:
        lines = (line.split() for line in caffe.read_text().splitlines() if line.strip())
        return {Path(name).stem: (int(label), ()) for name, label in lines}
    raise DataError(
        f"{beside} holds pictures, but there are no labels: none of LOC_val_solution.csv, "
        f"ILSVRC2012_validation_ground_truth.txt (with meta.mat) or val.txt is in {root}; {_WANTED}"
    )


def _read_kaggle(path: Path) -> Iterator[tuple[str, tuple[int, tuple[Box, ...]]]]:
    """`ImageId,PredictionString`: groups of synset, left, top, right, bottom."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            words = row["PredictionString"].split()
            corners = [tuple(map(float, words[at + 1 : at + 5])) for at in range(0, len(words), 5)]
            boxes = tuple((left, top, right - left, bottom - top) for left, top, right, bottom in corners)
            yield row["ImageId"], (label_of()[words[0]], boxes)


def _read_kit(truth: Path, meta: Path | None) -> Iterator[tuple[str, tuple[int, tuple[Box, ...]]]]:
    """One line a picture: its ILSVRC2012_ID, which `meta.mat` maps to a synset (the ids are not in synset order)."""
    if meta is None:
        raise DataError(
            f"{truth} gives ILSVRC2012 ids, and meta.mat, which says what they mean, is not beside it; unpack all of "
            "ILSVRC2012_devkit_t12.tar.gz"
        )
    synsets = require("scipy.io", "eval").loadmat(meta, squeeze_me=True)["synsets"]
    by_number = {int(entry["ILSVRC2012_ID"]): label_of().get(str(entry["WNID"])) for entry in synsets}
    for number, line in enumerate(truth.read_text().split(), start=1):
        label = by_number.get(int(line))
        if label is None:
            raise DataError(f"line {number} of {truth} is {line}, which {meta} does not list among the 1,000 synsets")
        yield f"ILSVRC2012_val_{number:08d}", (label, ())
