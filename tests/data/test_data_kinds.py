from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import cub, picture, write

from relprop.data import DATASETS, Part, open_dataset
from relprop.errors import DataError, UnknownNameError, UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def grey(dataset, at: int) -> int:
    """Grey of the middle of a picture, to the nearest ten (JPEG is not exact)."""
    return round(int(np.asarray(dataset.load(dataset.samples[at]))[3, 4, 0]) / 10) * 10


# CUB


def test_cub_reads_labels_split_boxes_and_visible_parts(tmp_path):
    home = cub(tmp_path)
    test = open_dataset(f"cub:{tmp_path}")
    assert [(sample.id, sample.label) for sample in test.samples] == [
        ("001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg", 0),
        ("002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg", 1),
    ]
    assert test.samples[0].boxes == ((1.0, 2.0, 4.0, 3.0),)
    assert test.samples[0].parts == (Part("back", 3.0, 2.5),)
    assert test.samples[1].parts == (Part("left eye", 4.0, 2.0),)
    assert test.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert (grey(test, 0), grey(test, 1)) == (80, 160)
    assert [s.id for s in open_dataset(f"cub:{home}:split=all").samples][1::2] == [s.id for s in test.samples]
    train = open_dataset(f"cub:{home}:split=train")
    assert (grey(train, 0), grey(train, 1)) == (40, 120)


def test_cub_missing_or_incomplete(tmp_path):
    with pytest.raises(DataError, match=r"CUB_200_2011\.tgz from https://www\.vision\.caltech\.edu"):
        open_dataset(f"cub:{tmp_path}")
    home = cub(tmp_path)
    (home / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n")
    with pytest.raises(DataError, match=r"image_class_labels\.txt lacks 1 ids of images\.txt, such as 4"):
        open_dataset(f"cub:{tmp_path}")
    (home / "bounding_boxes.txt").unlink()
    with pytest.raises(DataError, match=r"bounding_boxes\.txt is missing; unpack"):
        open_dataset(f"cub:{tmp_path}")


# folders


def test_folders_are_classes_in_sorted_order(tmp_path):
    for name, value in (("dog/2.png", 0), ("cat/deep/1.jpg", 50), ("cat/0.jpg", 90), ("dog/notes.txt", 0)):
        write(tmp_path / name, picture(value))
    found = open_dataset(f"folder:{tmp_path}")
    assert [(s.id, s.label) for s in found.samples] == [("cat/0.jpg", 0), ("cat/deep/1.jpg", 0), ("dog/2.png", 1)]
    assert found.classes == ("cat", "dog")
    assert grey(found, 0) == 90


def test_names_may_start_with_their_label(tmp_path):
    write(tmp_path / "0002_n01484850_great_white_shark.JPEG", picture(20))
    write(tmp_path / "0000_n01440764_tench.JPEG", picture(0))
    found = open_dataset(f"folder:{tmp_path}")
    assert [sample.label for sample in found.samples] == [0, 2]
    assert found.classes is not None
    assert len(found.classes) == 1000  # number and synset agree with ImageNet's list
    write(tmp_path / "1_zebra.png", picture(0))
    assert open_dataset(f"folder:{tmp_path}").classes == ("tench", "zebra", "great_white_shark")


def test_other_names_are_refused_with_one_of_them(tmp_path):
    write(tmp_path / "0_cat.jpg", picture(0))
    write(tmp_path / "holiday.jpg", picture(0))
    with pytest.raises(DataError, match=r"1 of 2 pictures .* do not start with the number .* such as holiday\.jpg"):
        open_dataset(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="holds no pictures"):
        open_dataset(f"folder:{tmp_path}:labels=folders")
    with pytest.raises(DataError, match="there is no folder"):
        open_dataset(f"folder:{tmp_path / 'nowhere'}")


@pytest.mark.skipif(not (SHARED / "imagenet-sample").is_dir(), reason="../shared/data/imagenet-sample is not there")
def test_the_shared_imagenet_sample():
    found = open_dataset(f"folder:{SHARED / 'imagenet-sample'}")
    assert (len(found), found.samples[0].label, found.samples[-1].label) == (100, 3, 993)
    assert found.classes is not None
    assert (found.classes[3], found.classes[993]) == ("tiger shark", "gyromitra")


# parquet


def parquet_file(path: Path, labels: list[int], image: str = "image", nested: bool = False, metadata=None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [picture(10 * (at + 1)) for at in range(len(labels))]
    column = pa.array([{"bytes": one, "path": None} for one in pictures] if nested else pictures)
    table = pa.table({image: column, "label": pa.array(labels, pa.int8())}).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_parquet_reads_pictures_by_row_over_row_groups(tmp_path):
    found = open_dataset(f"parquet:{parquet_file(tmp_path / 'test.parquet', [1, 0, 2, 0, 1])}")
    assert [(s.id, s.label) for s in found.samples][3:] == [("test/00000003", 0), ("test/00000004", 1)]
    assert [grey(found, at) for at in (4, 0, 2, 3, 1)] == [50, 10, 30, 40, 20]
    assert found.classes is None
    again = pickle.loads(pickle.dumps(found))
    assert grey(again, 4) == 50


def test_parquet_folder_with_hugging_face_schema(tmp_path):
    info = {"info": {"features": {"img": {"_type": "Image"}, "label": {"names": ["cat", "dog"]}}}}
    for name in ("test-0", "test-1"):
        parquet_file(tmp_path / f"{name}.parquet", [1, 0, 1], "img", True, {"huggingface": json.dumps(info)})
    found = open_dataset(f"parquet:{tmp_path}")
    assert [s.id for s in found.samples][2:4] == ["test-0/00000002", "test-1/00000000"]
    assert [grey(found, at) for at in (0, 3, 5)] == [10, 10, 30]
    assert found.classes == ("cat", "dog")


def test_parquet_mistakes(tmp_path):
    with pytest.raises(DataError, match="there is no Parquet file at"):
        open_dataset(f"parquet:{tmp_path}")
    file = parquet_file(tmp_path / "a.parquet", [0], image="photo")
    with pytest.raises(DataError, match=r"no image column .*it has photo, label\. Name it: parquet:.*:image=NAME"):
        open_dataset(f"parquet:{file}")
    assert grey(open_dataset(f"parquet:{file}:image=photo"), 0) == 10
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"b\.parquet is not a Parquet file"):
        open_dataset(f"parquet:{tmp_path / 'b.parquet'}")
    with pytest.raises(DataError, match="no whole numbers from 0"):
        open_dataset(f"parquet:{parquet_file(tmp_path / 'c.parquet', [0, -1])}")


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="../shared/data/cifar10 is not there")
def test_the_shared_cifar10():
    found = open_dataset(f"parquet:{SHARED / 'cifar10' / 'test.parquet'}")
    assert len(found) == 10_000
    assert found.load(found.samples[9_999]).size == (32, 32)
    assert [sum(s.label == label for s in found.samples) for label in range(10)] == [1000] * 10


# torchvision's CIFAR-10


def test_cifar10_in_torchvisions_layout(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    pixels = np.arange(2 * 3 * 32 * 32, dtype=np.int64).reshape(2, 3072) % 251
    files = {
        "test_batch": {"data": pixels.astype(np.uint8), "labels": [7, 3]},
        "batches.meta": {"label_names": [f"class{at}" for at in range(10)]},
    }
    for name, content in files.items():
        write(tmp_path / "cifar-10-batches-py" / name, pickle.dumps(content))
    digest = {name: hashlib.md5((tmp_path / "cifar-10-batches-py" / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digest["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digest["batches.meta"]})
    found = open_dataset(f"cifar10:{tmp_path}")
    assert [(s.id, s.label) for s in found.samples] == [("test/00000", 7), ("test/00001", 3)]
    assert found.classes == tuple(f"class{at}" for at in range(10))
    # row-major planes: pixel (row 1, column 2) of channel c is value 1024 c + 34
    assert np.asarray(found.load(found.samples[1]))[1, 2].tolist() == [int(pixels[1, 1024 * c + 34]) for c in range(3)]


def test_cifar10_missing(tmp_path):
    with pytest.raises(DataError, match=r"download cifar-10-python\.tar\.gz from .* unpack it there"):
        open_dataset(f"cifar10:{tmp_path}")


# what all kinds share


def test_specs_are_read_with_helpful_misses(tmp_path):
    assert set(DATASETS) == {"cifar10", "cub", "folder", "imagenet", "parquet"}
    with pytest.raises(UnknownNameError, match="did you mean 'parquet'"):
        open_dataset("parket:x")
    with pytest.raises(UsageError, match="names no path; write folder:PATH"):
        open_dataset("folder")
    with pytest.raises(UsageError, match="split must be one of test, train, all, not 'val'"):
        open_dataset(f"cub:{tmp_path}:split=val")
    with pytest.raises(UsageError, match="has no option 'split'"):
        open_dataset(f"folder:{tmp_path}:split=val")


def test_roots_may_hold_colons(tmp_path):
    cub(tmp_path / "a:b=c" / "d:e")
    assert len(open_dataset(f"cub:{tmp_path / 'a:b=c' / 'd:e'}:split=all")) == 4


def test_a_corrupt_picture_is_an_error_that_names_it(tmp_path):
    write(tmp_path / "0_cat.jpg", picture(0)[:150])
    found = open_dataset(f"folder:{tmp_path}")
    with pytest.raises(DataError, match=r"sample 0_cat\.jpg of folder:.* cannot be read"):
        found.load(found.samples[0])
    (tmp_path / "0_cat.jpg").unlink()
    with pytest.raises(DataError, match=r"sample 0_cat\.jpg of folder:.* cannot be read"):
        found.load(found.samples[0])


def test_a_parquet_without_rows_is_said_to_be_one(tmp_path):
    with pytest.raises(DataError, match=r"none\.parquet holds no rows, so there is nothing to explain"):
        open_dataset(f"parquet:{parquet_file(tmp_path / 'none.parquet', [])}")


def test_a_number_that_no_class_has_is_refused_before_names_are_made_up(tmp_path):
    for label in (0, 10**12):
        (tmp_path / f"{label}_cat.png").write_bytes(b"")
    with pytest.raises(DataError, match="is of class 1000000000000; classes are counted up to 1000000"):
        open_dataset(f"folder:{tmp_path}")


def test_ids_of_names_that_are_no_text_are_text(tmp_path):
    name = b"0_\xff.png".decode("utf-8", "surrogateescape")
    Image.new("RGB", (2, 2)).save(tmp_path / name)
    found = open_dataset(f"folder:{tmp_path}")
    assert found.samples[0].id.encode() == b"0_\\udcff.png"
    assert found.load(found.samples[0]).size == (2, 2)
