"""A newcomer with a network of their own: other module names, seven classes, grey pictures, as docs/howto says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from relprop.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own-resnet.md"


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The folder of a newcomer: `mynet.py` as on the page, a checkpoint as DataParallel saves it, a photograph."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    source = next(block for block in blocks if "class MyNet" in block)
    (tmp_path / "mynet.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    from mynet import MyNet

    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in MyNet().state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, "mine.pth")
    from relprop import demo

    demo.photograph().save("photo.jpg")
    yield tmp_path
    sys.modules.pop("mynet", None)


def run(line: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(line.split(), prog_name="relprop")
    return int(ended.value.code or 0)


@pytest.mark.parametrize("model", ["--model mine.pth --arch mynet:MyNet", "--model mynet:MyNet"])
def test_a_heatmap_of_ones_own_grey_network(model, theirs, capsys):
    assert run(f"explain photo.jpg {model} --size 32 --mean 0.45 --std 0.23 --device cpu --json") == 0
    assert '"class": "class ' in capsys.readouterr().out
    heatmap = np.load(theirs / "relprop-out" / "photo.npy")
    assert heatmap.shape == (32, 32)
    assert 1 / 7 - 0.1 < heatmap.sum() < 1  # the probability of the most likely of seven classes, untrained


def test_what_the_file_does_not_say_is_said_until_it_is_given(theirs, capsys):
    line = "explain photo.jpg --model mine.pth --arch mynet:MyNet --compare none --device cpu"
    assert run(line) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "does not say how images are prepared; taken was --size 224 --mean 0.449 --std 0.226: give" in said
    assert "the classes have no names; --classes FILE gives them" in said
    (theirs / "names.txt").write_text("\n".join("abcdefg"))
    assert run(f"{line} --size 32 --classes names.txt") == 0
    said = capsys.readouterr().out
    assert "does not say" not in said
    assert "have no names" not in said


def test_check_finds_the_joins(theirs, capsys):
    assert run("check mine.pth --arch mynet:MyNet --size 32 --device cpu") == 0
    assert "3 residual joins: 1 with an identity skip, 2 with a projection" in capsys.readouterr().out


def test_without_an_architecture_it_says_what_is_missing(theirs, capsys):
    assert run("explain photo.jpg --model mine.pth") == 2
    assert "give arch (--arch)" in " ".join(capsys.readouterr().err.split())
