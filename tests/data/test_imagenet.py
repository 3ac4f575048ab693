from __future__ import annotations

import numpy as np
import pytest
from trees import development_kit, imagenet_flat, imagenet_folders, kaggle, official_name, picture, write

from relprop.data import open_dataset
from relprop.data.imagenet import class_list
from relprop.errors import DataError

LABELS = [2, 0, 1, 0]


def test_the_class_list_is_sorted_by_synset_and_named_as_torchvision_names_it():
    from torchvision.models import ResNet50_Weights

    wnids, names = zip(*class_list(), strict=True)
    assert list(wnids) == sorted(set(wnids))
    assert list(names) == ResNet50_Weights.IMAGENET1K_V1.meta["categories"]


def layouts():
    yield "folders", lambda root: imagenet_folders(root, LABELS)
    yield "kit", lambda root: (imagenet_flat(root / "val", LABELS), development_kit(root, LABELS))
    yield "kaggle", lambda root: kaggle(root, LABELS)
    caffe = "".join(f"{official_name(at)}.JPEG {label}\n" for at, label in enumerate(LABELS, start=1))
    yield "caffe", lambda root: (imagenet_flat(root, LABELS), write(root / "val.txt", caffe))


@pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in layouts()])
def test_every_layout_gives_the_same_ids_labels_and_pictures(tmp_path, build):
    build(tmp_path)
    found = open_dataset(f"imagenet:{tmp_path}")
    assert [(sample.id, sample.label) for sample in found.samples] == [
        (official_name(number), label) for number, label in enumerate(LABELS, start=1)
    ]
    assert found.classes is not None
    assert (len(found), found.classes[:3]) == (4, ("tench", "goldfish", "great white shark"))
    third = np.asarray(found.load(found.samples[2]))
    assert third.shape == (6, 8, 3)
    assert abs(int(third[3, 4, 0]) - 30) <= 1


def test_kaggles_corners_become_boxes(tmp_path):
    kaggle(tmp_path, LABELS)
    found = open_dataset(f"imagenet:{tmp_path}")
    assert found.has_boxes
    assert found.samples[0].boxes == ((1.0, 2.0, 4.0, 2.0), (0.0, 0.0, 8.0, 6.0))


def test_nothing_there_says_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match=r"ILSVRC2012_img_val\.tar .*https://image-net\.org.*ROOT/val") as caught:
        open_dataset(f"imagenet:{tmp_path}")
    assert str(tmp_path) in str(caught.value)


def test_pictures_without_labels_say_which_lists_are_read(tmp_path):
    imagenet_flat(tmp_path / "val", LABELS)
    with pytest.raises(DataError, match=r"no labels: none of LOC_val_solution\.csv"):
        open_dataset(f"imagenet:{tmp_path}")


def test_ground_truth_without_meta_says_so(tmp_path):
    imagenet_flat(tmp_path / "val", LABELS)
    development_kit(tmp_path, LABELS)
    (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    with pytest.raises(DataError, match=r"meta\.mat, which says what they mean, is not beside it"):
        open_dataset(f"imagenet:{tmp_path}")


def test_folders_of_other_synsets_are_refused(tmp_path):
    imagenet_folders(tmp_path, LABELS)
    write(tmp_path / "val" / "n99999999" / "a.JPEG", picture(1))
    with pytest.raises(DataError, match=r"none of ImageNet's 1,000 synsets, e\.g\. n99999999"):
        open_dataset(f"imagenet:{tmp_path}")


def test_a_list_that_lacks_a_picture_is_refused(tmp_path):
    kaggle(tmp_path, LABELS)
    write(tmp_path / "ILSVRC/Data/CLS-LOC/val" / f"{official_name(9)}.JPEG", picture(1))
    with pytest.raises(DataError, match=rf"lacks 1 pictures, such as {official_name(9)}"):
        open_dataset(f"imagenet:{tmp_path}")
