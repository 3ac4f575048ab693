"""Files that ask for an import, hold themselves, or hold tensors that are none: refused in one sentence, soon."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from relprop.errors import ModelError
from relprop.models import load_model

MODULE = (
    "import pathlib, torch\npathlib.Path(__file__).with_name('ran').touch()\ndef make(): return torch.nn.Linear(2, 2)\n"
)


def message(path, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module in the current folder that leaves a mark, and a checkpoint whose metadata name it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted.py").write_text(MODULE)
    path = tmp_path / "model.safetensors"
    save_file(torch.nn.Linear(2, 2).state_dict(), path, {"arch": json.dumps("planted:make")})
    yield path
    sys.modules.pop("planted", None)


def test_metadata_import_nothing(planted):
    told = message(planted)
    assert "ask for the architecture 'planted:make', which would be imported and run" in told
    assert "arch='planted:make' (--arch), or trust=True (--trust)" in told
    assert not planted.with_name("ran").exists()
    assert "planted" not in sys.modules


@pytest.mark.parametrize("options", [{"trust": True}, {"arch": "planted:make"}])
def test_a_user_may_say_that_it_is_imported(planted, options):
    assert isinstance(load_model(planted, **options).model, torch.nn.Linear)
    assert planted.with_name("ran").exists()


@pytest.mark.parametrize("arch", ["os:abort", "posix:_exit", "builtins:exit", "no.such:thing", "a:b:c"])
def test_no_importable_name_of_a_file_is_looked_up(tmp_path, arch):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(3)}, path, {"arch": json.dumps(arch)})
    assert "would be imported and run" in message(path)


@pytest.mark.slow
def test_the_probe_of_the_shared_faults_passes(shared):
    sys.path.insert(0, str(shared / "cases"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import faults
        held, saw = faults.CASES["metadata_runs_code"]()
    finally:
        sys.path.remove(str(shared / "cases"))
    assert held, saw


def test_a_state_dict_that_holds_itself_ends(saved):
    content: dict = {"epoch": 3}
    content["state_dict"] = content
    assert "dictionaries in dictionaries, more than 8 deep" in message(saved(content), arch="cifar-resnet8")


def test_a_file_without_tensors_ends(tmp_path):
    save_file({}, tmp_path / "empty.safetensors", {"arch": json.dumps("cifar-resnet8")})
    assert message(tmp_path / "empty.safetensors").endswith("holds no tensors; save model.state_dict()")


def kinds() -> dict[str, tuple[Tensor, str]]:
    return {
        "float8": (torch.zeros(3).to(torch.float8_e4m3fn), "holds float8_e4m3fn, which torch does not compute with"),
        "meta": (torch.empty(3, device="meta"), "is on the device 'meta', so its values are not in the file"),
        "sparse": (torch.eye(3).to_sparse(), "is sparse, which is not read here"),
        "view": (torch.zeros(1).expand(1 << 40), "claims the shape (1099511627776,), and only 4 bytes of it are"),
        "complex": (torch.zeros(3, dtype=torch.complex64), "holds complex numbers; relevance is defined for real"),
    }


@pytest.mark.parametrize("kind", kinds())
def test_tensors_that_are_no_weights_are_refused(saved, kind):
    tensor, told = kinds()[kind]
    assert f"odd {told}" in message(saved({"odd": tensor}), arch="cifar-resnet8")


def test_float8_in_safetensors_is_refused_too(tmp_path):
    save_file({"odd": torch.zeros(3).to(torch.float8_e5m2)}, tmp_path / "w.safetensors")
    assert "odd holds float8_e5m2" in message(tmp_path / "w.safetensors", arch="cifar-resnet8")


@pytest.mark.parametrize(
    ("key", "text"),
    [("size", "1e9"), ("size", "100000000"), ("resize", "true"), ("size", '"x"'), ("mean", "{}"), ("std", "[NaN]")],
)
def test_preprocessing_of_metadata_is_bounded(net, tmp_path, key, text):
    path = tmp_path / "w.safetensors"
    save_file(dict(net.state_dict()), path, {"arch": json.dumps("cifar-resnet8"), key: text})
    assert message(path).startswith(f"{path}: its metadata on preprocessing cannot be used")


@pytest.mark.parametrize("text", ["7", '"ten words"', '{"0": "a"}'])
def test_classes_of_metadata_are_a_list(net, tmp_path, text):
    path = tmp_path / "w.safetensors"
    save_file(dict(net.state_dict()), path, {"arch": json.dumps("cifar-resnet8"), "classes": text})
    assert "its metadata on classes are a" in message(path)


def test_metadata_nested_too_deep_are_plain_text(net, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(dict(net.state_dict()), path, {"arch": json.dumps("cifar-resnet8"), "note": "[" * 100_000})
    assert load_model(path).name == "w"
