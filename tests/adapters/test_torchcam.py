"""The torchcam habit: one image in, a result that saves itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from adapter_networks import Residual, images
from PIL import Image

import relprop
from relprop.adapters.torchcam import explain
from relprop.errors import InputError, TargetError, UsageError

MODEL = Residual()
X = images(1)
PREDICTED = int(MODEL(X).argmax())
OTHER = (PREDICTED + 1) % 5
NAMES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture
def photograph():
    return Image.new("RGB", (16, 16), (128, 128, 128))


def test_the_predicted_class_and_the_expected_one():
    found = explain(MODEL, X, expected_class_idx=OTHER)
    assert (found.predicted_class_idx, found.expected_class_idx) == (PREDICTED, OTHER)
    assert list(found.cams) == [PREDICTED, OTHER]
    for index, (heatmap,) in found.cams.items():
        assert torch.equal(heatmap, relprop.explain(MODEL, X, index).heatmap[0])
    assert list(explain(MODEL, X, expected_class_idx=PREDICTED).cams) == [PREDICTED]


def test_what_is_saved(tmp_path, photograph):
    found = explain(MODEL, X, expected_class_idx=OTHER, class_names=NAMES)
    folder = found.save(tmp_path / "deep" / "out", photograph)
    stems = [f"class-{index}" for index in sorted((PREDICTED, OTHER))]
    files = {f"{stem}{end}" for stem in stems for end in (".npy", "-heatmap.png", "-overlay.png")}
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *files}
    raw = np.load(folder / f"class-{PREDICTED}.npy")
    assert np.array_equal(raw, found.cams[PREDICTED][0].numpy())
    with Image.open(folder / f"class-{PREDICTED}-overlay.png") as overlay:
        assert overlay.size == (8, 8)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["classes"][str(PREDICTED)]
    assert entry["class_name"] == manifest["prediction"]["class_name"] == NAMES[PREDICTED]
    assert entry["relevance_sum"] == pytest.approx(entry["probability"], rel=1e-5)
    assert entry["gap"] < 1e-6
    assert manifest["expected"] == {"class_idx": OTHER, "class_name": NAMES[OTHER]}


def test_its_result_has_what_torchcams_has():
    torchcam = pytest.importorskip("torchcam.explain")
    theirs = torchcam.explain(MODEL, X.clone(), expected_class_idx=OTHER, target_layer="conv2")
    ours = explain(MODEL, X, expected_class_idx=OTHER)
    assert (ours.predicted_class_idx, ours.expected_class_idx) == (
        theirs.predicted_class_idx,
        theirs.expected_class_idx,
    )
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert ours.cams.keys() == theirs.cams.keys()
    assert all(len(maps) == len(theirs.cams[index]) == 1 for index, maps in ours.cams.items())
    assert ours.model == theirs.model
    assert ours.cams[OTHER][0].shape == (8, 8)  # theirs has the size of the layer


def test_a_failure_leaves_nothing_behind(tmp_path, photograph, monkeypatch):
    found = explain(MODEL, X)
    monkeypatch.setattr(type(found), "_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.save(tmp_path / "out", photograph)
    assert list(tmp_path.iterdir()) == []


def test_messages(tmp_path):
    with pytest.raises(InputError, match=r"one image \(1, C, H, W\); relprop.explain takes a batch"):
        explain(MODEL, images(2))
    with pytest.raises(UsageError, match="2 class names were given for 5 classes"):
        explain(MODEL, X, class_names=["a", "b"])
    with pytest.raises(TargetError, match="class 5 does not exist"):
        explain(MODEL, X, expected_class_idx=5)
    found = explain(MODEL, X)
    with pytest.raises(InputError, match="image must be a PIL image, not str"):
        found.save(tmp_path / "out", "photo.jpg")
    with pytest.raises(FileExistsError, match="already exists"):
        found.save(tmp_path)


def test_results_as_arrays():
    result = relprop.explain(MODEL, X)
    assert np.array_equal(np.asarray(result), result.heatmap.numpy())
    assert np.asarray(result, dtype=np.float64).dtype == np.float64
    assert np.array_equal(result.numpy("relevance"), result.relevance.numpy())
    with pytest.raises(UsageError, match="'ledger' is no tensor of a result; heatmap, relevance"):
        result.numpy("ledger")
