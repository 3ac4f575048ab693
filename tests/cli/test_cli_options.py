"""What the shared options mean, and the sentence for each that means nothing."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relprop.cli import options
from relprop.cli.batches import _distinct
from relprop.errors import TargetError, UsageError
from relprop.models.classes import class_index

CLASSES = ("tench, Tinca tinca", "crane", "goldfish", "crane", "tabby, tabby cat")


@pytest.mark.parametrize(
    ("text", "values"),
    [(None, None), ("0.5", (0.5, 0.5, 0.5)), ("0.485,0.456,0.406", (0.485, 0.456, 0.406)), ("0, 1, 2", (0, 1, 2))],
)
def test_channels(text, values):
    assert options.channels("--mean", text) == values


@pytest.mark.parametrize("text", ["", "a", "1,2", "1,2,3,4", "1;2;3", "nan,0,0", "inf"])
def test_channels_that_are_none(text):
    with pytest.raises(UsageError, match="--std takes one number or three with commas"):
        options.channels("--std", text)


def test_split_and_identity_are_options_of_the_composite():
    assert options.Joins().spec("paper") == "paper"
    assert options.Joins("symmetric", False).spec("paper") == "paper:split=symmetric:identity=false"
    assert options.Joins(identity=True).spec("paper:first=image") == "paper:first=image:identity=true"


@pytest.mark.parametrize(
    ("text", "index"), [("3", 3), ("-1", -1), ("Tench", 0), ("tinca tinca", 0), ("tench, tinca tinca", 0), ("tabby", 4)]
)
def test_a_class_by_index_or_name(text, index):
    assert class_index(text, CLASSES) == index


@pytest.mark.parametrize(
    ("text", "classes", "sentence"),
    [
        ("goldfihs", CLASSES, "none of the 5 classes is called 'goldfihs'; near it: goldfish"),
        ("crane", CLASSES, "classes 1, 3 are all called 'crane'; give an index"),
        ("crane", None, "the model brings no class names, so 'crane' cannot be found; give an index"),
    ],
)
def test_a_class_that_cannot_be_found(text, classes, sentence):
    with pytest.raises(TargetError, match=sentence):
        class_index(text, classes)


def test_one_target_serves_all_images_and_each_may_be_several_classes():
    assert options.targets(["2"], 3, None) == [(2,)] * 3
    assert options.targets(["2", "0", "1"], 3, None) == [(2,), (0,), (1,)]
    assert options.targets(["5,3"], 2, None) == [(5, 3)] * 2
    assert options.targets(["tabby,goldfish"], 1, CLASSES) == [(4, 2)]
    assert options.targets(["tench, Tinca tinca"], 1, CLASSES) == [(0,)]  # a name with a comma of its own
    assert options.targets(None, 3, None) is None
    with pytest.raises(TargetError, match="given 2 times for 3 images"):
        options.targets(["2", "0"], 3, None)
    with pytest.raises(TargetError, match="class 5 does not exist: the model has 5 classes, 0 to 4"):
        options.targets(["1,5"], 1, None, 5)


def test_a_contrast_is_of_two_classes():
    assert options.contrast("tabby,goldfish", CLASSES) == (4, 2)
    for wrong in ("1", "1,1", "1,2,3"):
        with pytest.raises(TargetError, match="takes two classes with a comma"):
            options.contrast(wrong, CLASSES)


def test_the_number_of_classes_of_a_known_name_needs_no_model():
    assert (options.known_outputs(None), options.known_outputs("resnet50@IMAGENET1K_V2")) == (1000, 1000)
    assert options.known_outputs("resnet20-cifar10") == 10
    assert options.known_outputs("mine.pth") is None


def test_a_device_that_is_not_here():
    assert options.choose_device("cpu") == "cpu"
    assert options.choose_device("auto") in ("cpu", "cuda")
    with pytest.raises(UsageError, match=r"there is no device 'gpu' here; there is cpu"):
        options.choose_device("gpu")


def test_repeated_names_are_numbered():
    assert _distinct(["bird", "cat", "bird", "bird"]) == ["bird", "cat", "bird-2", "bird-3"]
    assert _distinct(["bird-2", "bird", "bird"]) == ["bird-2", "bird", "bird-3"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b"]), max_size=8))
def test_numbered_names_are_distinct(names):
    assert len(set(_distinct(names))) == len(names)
