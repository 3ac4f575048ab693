"""Files that are damaged, or would run code, are refused in one sentence."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from relprop.errors import ModelError
from relprop.models import load_model


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def message(path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("trust", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, saved, zipped, trust):
    mark = tmp_path / "ran"
    path = saved({"state_dict": {"a": RunsCode(mark)}}, _use_new_zipfile_serialization=zipped)
    told = message(path, arch="resnet18", trust=trust)
    assert f"{path} holds pickled Python objects (posix.mkdir); reading them can run code, so it is refused" in told
    assert "weights_only=False" in told
    assert not mark.exists()


def test_a_plain_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(RunsCode(mark)))
    assert "holds pickled Python objects" in message(path, arch="resnet18")
    assert not mark.exists()


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"args": argparse.Namespace(lr=1), "model": {}}])
def test_a_pickled_module_is_refused_with_the_way_to_convert_it(saved, content):
    path = saved(content)
    told = message(path, arch="resnet18")
    assert f"c = torch.load('{path}', weights_only=False); torch.save(c['state_dict']" in told


def test_the_way_to_convert_works(saved, net, tmp_path, monkeypatch):
    path = saved(net)
    told = message(path, arch="cifar-resnet8")
    monkeypatch.chdir(tmp_path)
    exec(told[told.index("c = torch.load") :], {"torch": torch})
    loaded = load_model("weights.pth", arch="cifar-resnet8")
    assert torch.equal(loaded.model.fc.weight, net.fc.weight)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"<html>404</html>", b"hello world\n" * 9, b"\0" * 1000, bytes(range(256)) * 4])
def test_not_a_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    told = message(tmp_path / name, arch="resnet18")
    assert told.startswith(f"{tmp_path / name} is not a ")
    assert "damaged" in told
    assert len(told) < 400
    assert "weights_only" not in told


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_checkpoint(saved, net, zipped, kept):
    path = saved(net.state_dict(), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "damaged" in message(path, arch="cifar-resnet8")


def test_empty_missing_and_folder(tmp_path):
    (tmp_path / "a.pth").touch()
    assert (
        message(tmp_path / "a.pth")
        == f"the checkpoint {tmp_path / 'a.pth'} is empty (0 bytes); copy or download it again"
    )
    assert message(tmp_path / "b.pth") == f"there is no checkpoint '{tmp_path / 'b.pth'}'"
    assert message(tmp_path) == f"there is no checkpoint '{tmp_path}': it is a folder"


def test_torchscript_is_told_apart(tmp_path):
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop it; users still have such files
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    assert "is a TorchScript archive, which holds code and is not read here; save the state_dict()" in message(
        path, arch="resnet18"
    )
