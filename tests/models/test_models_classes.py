"""Names of classes: from lists, files, folders and checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import relprop
from relprop.errors import ModelError, TargetError, UsageError
from relprop.models import load_model
from relprop.models.classes import classes_in, read_classes

NAMES = ("cat", "dog", "eel")


def test_names_are_read_from_lists_mappings_files_and_folders(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\neel\n\n", encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps(NAMES))
    (tmp_path / "map.json").write_text(json.dumps({"2": "eel", "0": "cat", "1": "dog"}))
    for name in ("eel", "cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    sources = [NAMES, {"dog": 1, "cat": 0, "eel": 2}]
    sources += [tmp_path / name for name in ("names.txt", "list.json", "map.json", "train")]
    assert [read_classes(source) for source in sources] == [NAMES] * 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "names no class"),
        (["cat", " "], "name 2 of 2 is empty"),
        ({"cat": 0, "dog": 2}, "must map each name to an index, 0 to 1"),
        ([1, 2], "must be a list of names"),
        ("nowhere.txt", "cannot be read from 'nowhere.txt': No such file"),
    ],
)
def test_what_names_no_classes(given, said):
    with pytest.raises(UsageError, match=said):
        read_classes(given)


@pytest.mark.parametrize("key", ["classes", "class_names"])
def test_names_in_a_checkpoint_are_used(tmp_path, key):
    model = resnet18(num_classes=3)
    torch.save({"state_dict": model.state_dict(), key: list(NAMES)}, tmp_path / "mine.pth")
    loaded = load_model(tmp_path / "mine.pth", arch="resnet18", size=32)
    assert loaded.classes == NAMES
    assert loaded.class_index("EEL") == 2
    given = load_model(tmp_path / "mine.pth", arch="resnet18", size=32, classes=["a", "b", "c"])
    assert given.classes == ("a", "b", "c")
    with pytest.raises(ModelError, match="2 class names were given, but the network has 3 outputs"):
        load_model(tmp_path / "mine.pth", arch="resnet18", size=32, classes=["a", "b"])
    assert classes_in({"classes": 3, "class_to_idx": {"dog": 1, "cat": 0}}) == ("cat", "dog")


def test_without_names_it_is_said_how_to_give_them():
    loaded = load_model("random:resnet18", size=32)
    with pytest.raises(TargetError, match=r"--classes FILE with one a line, or load_model\(..., classes=\[...\]\)"):
        loaded.class_index("cat")
    with pytest.raises(TargetError, match=r"not 'cat'; a model knows no names: load_model\(...\).class_index"):
        relprop.explain(loaded.model, torch.rand(1, 3, 32, 32), target="cat")


def test_a_changed_head_gets_the_way_to_say_so(tmp_path, monkeypatch):
    model = resnet18()
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3))
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(ModelError, match=r"Only the head differs: the file's has fc.1.weight \(3, 512\)") as caught:
        load_model(tmp_path / "mine.pth", arch="resnet18")
    assert "--arch mynet:make" in str(caught.value)
    (tmp_path / "changed_head.py").write_text(
        "import torch, torchvision\n"
        "def make():\n"
        "    model = torchvision.models.resnet18()\n"
        "    model.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(512, 3))\n"
        "    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_model("mine.pth", arch="changed_head:make").model.fc[1].out_features == 3
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="Give the architecture it was trained with"):
        load_model(tmp_path / "other.pth", arch="resnet18")
