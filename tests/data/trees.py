"""Small data sets with the exact layout on disk of the real ones."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

WNIDS = ("n01440764", "n01443537", "n01484850")  # labels 0, 1, 2: tench, goldfish, great white shark


def picture(grey: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A JPEG of one grey, width x height = 8 x 6."""
    made = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(made, "JPEG", quality=95)
    return made.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def official_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def imagenet_folders(root: Path, labels: list[int]) -> None:
    """val/SYNSET/ILSVRC2012_val_0000000K.JPEG, K from 1."""
    for number, label in enumerate(labels, start=1):
        write(root / "val" / WNIDS[label] / f"{official_name(number)}.JPEG", picture(10 * number))


def imagenet_flat(folder: Path, labels: list[int]) -> None:
    for number, _ in enumerate(labels, start=1):
        write(folder / f"{official_name(number)}.JPEG", picture(10 * number))


def development_kit(root: Path, labels: list[int]) -> None:
    """Ground truth in ILSVRC2012 ids, and meta.mat: ids are not in synset order, and inner synsets have children."""
    from scipy.io import savemat

    ids = {0: 3, 1: 1, 2: 2}  # label -> ILSVRC2012_ID
    fields = [
        ("ILSVRC2012_ID", "O"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "O"),
        ("children", "O"),
        ("wordnet_height", "O"),
        ("num_train_images", "O"),
    ]
    rows = [(ids[label], wnid, "words", "gloss", 0, np.array([]), 0, 1300) for label, wnid in enumerate(WNIDS)]
    rows.append((1001, "n00001740", "entity", "gloss", 3, np.array([1, 2, 3]), 1, 0))
    home = root / "ILSVRC2012_devkit_t12" / "data"
    write(home / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{ids[label]}\n" for label in labels))
    savemat(home / "meta.mat", {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})


def kaggle(root: Path, labels: list[int]) -> None:
    imagenet_flat(root / "ILSVRC" / "Data" / "CLS-LOC" / "val", labels)
    lines = ["ImageId,PredictionString"]
    for number, label in enumerate(labels, start=1):
        lines.append(f"{official_name(number)},{WNIDS[label]} 1 2 5 4 {WNIDS[label]} 0 0 8 6 ")
    write(root / "LOC_val_solution.csv", "\n".join(lines) + "\n")


def cub(root: Path) -> Path:
    """Two classes of two pictures each; the first of each is for training."""
    home = root / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
    ]
    for at, name in enumerate(names):
        write(home / "images" / name, picture(40 * (at + 1)))
    write(home / "images.txt", "".join(f"{at} {name}\n" for at, name in enumerate(names, start=1)))
    write(home / "image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n")
    write(home / "train_test_split.txt", "1 1\n2 0\n3 1\n4 0\n")
    write(home / "bounding_boxes.txt", "1 0.0 0.0 8.0 6.0\n2 1.0 2.0 4.0 3.0\n3 0.0 0.0 8.0 6.0\n4 2.0 1.0 3.0 2.0\n")
    write(home / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    write(home / "parts" / "parts.txt", "1 back\n2 left eye\n")
    locations = ["1 1 0.0 0.0 0", "1 2 1.0 1.0 1", "2 1 3.0 2.5 1", "2 2 0.0 0.0 0", "3 1 1.0 1.0 1", "4 2 4.0 2.0 1"]
    write(home / "parts" / "part_locs.txt", "".join(f"{line}\n" for line in locations))
    return home
