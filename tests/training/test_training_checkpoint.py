import json
import os

import pytest
import torch

from relprop.errors import RunError
from relprop.training import checkpoint


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_goes_on_from_what_was_saved(tmp_path, kind):
    def make():
        weight = torch.tensor([1.0, -2.0], requires_grad=True)
        return weight, kind([weight], lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))

    def step(weight, optimizer):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()

    weight, optimizer = make()
    step(weight, optimizer)
    tensors, plain = checkpoint.pack_optimizer(optimizer)
    checkpoint.save_checkpoint(tmp_path, 1, {"model.w": weight, **tensors}, {"optimizer": plain})
    step(weight, optimizer)

    loaded, metadata = checkpoint.load_checkpoint(tmp_path)
    other, resumed = make()
    other.data.copy_(checkpoint.below(loaded, "model")["w"])
    checkpoint.unpack_optimizer(resumed, loaded, metadata["optimizer"])
    step(other, resumed)
    assert torch.equal(other, weight)


def test_only_the_last_checkpoint_is_kept(tmp_path):
    (tmp_path / ".checkpoint-0001.safetensors.0f0f").touch()  # of a run that was killed
    for number in (1, 2):
        checkpoint.save_checkpoint(tmp_path, number, {"x": torch.tensor([number])}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-0002.safetensors", "checkpoint.json"]
    tensors, _ = checkpoint.load_checkpoint(tmp_path)
    assert tensors["x"].tolist() == [2]


def test_a_kill_between_tensors_and_manifest_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    checkpoint.save_checkpoint(tmp_path, 1, {"x": torch.tensor([1])}, {})
    write = checkpoint.write_bytes

    def killed_at_the_manifest(path, content):
        if path.name == checkpoint.MANIFEST:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", killed_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(tmp_path, 2, {"x": torch.tensor([2])}, {})
    tensors, _ = checkpoint.load_checkpoint(tmp_path)
    assert tensors["x"].tolist() == [1]


def test_there_may_be_none(tmp_path):
    assert checkpoint.load_checkpoint(tmp_path) is None


def test_damage_is_noticed(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 3, {"x": torch.zeros(1000)}, {})
    tensors = tmp_path / "checkpoint-0003.safetensors"
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(RunError, match=r"checkpoint-0003.safetensors is not what .*checkpoint.json describes"):
        checkpoint.load_checkpoint(tmp_path)
    tensors.unlink()
    with pytest.raises(RunError, match=r"cannot be read: .*delete the folder's checkpoint files"):
        checkpoint.load_checkpoint(tmp_path)
    manifest = tmp_path / checkpoint.MANIFEST
    manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(RunError, match="has format 99; this version reads 1"):
        checkpoint.load_checkpoint(tmp_path)
    manifest.write_text("{")
    with pytest.raises(RunError, match=r"checkpoint.json cannot be read"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../checkpoint-0001.safetensors", "x.safetensors", 7, None])
def test_tensors_are_read_from_checkpoints_of_the_folder_alone(tmp_path, name):
    checkpoint.save_checkpoint(tmp_path / "run", 1, {"x": torch.zeros(2)}, {})
    manifest = tmp_path / "run" / checkpoint.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tensors": name}))
    with pytest.raises(RunError, match="for its tensors, which no checkpoint is called"):
        checkpoint.load_checkpoint(tmp_path / "run")


def test_manifests_that_are_no_files_or_nested_too_deep_are_refused(tmp_path):
    (tmp_path / checkpoint.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(RunError, match="nested too deep"):
        checkpoint.load_checkpoint(tmp_path)
    (tmp_path / checkpoint.MANIFEST).unlink()
    os.mkfifo(tmp_path / checkpoint.MANIFEST)
    with pytest.raises(RunError, match="is a pipe, device or socket"):
        checkpoint.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": None},
        {"rows": [7]},
        {"rows": [{"epoch": "os:abort"}]},
        {"optimizer": []},
        {"optimizer": {"state": {"x": {}}, "groups": []}},
        {"recipe": 7},
        {"seed": {}},
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_sentence(tmp_path, change):
    from relprop.training import state as states
    from relprop.training.recipes import RECIPES

    recipe = RECIPES.build("cifar10")
    who = {"recipe": recipe.to_json(), "seed": 0, "data": "d"}
    begun = states.start(recipe, 10, 0)
    states.write(begun, tmp_path, who)
    states.resume(states.start(recipe, 10, 0), tmp_path, who)
    manifest = tmp_path / checkpoint.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(RunError, match=r"does not fit what it says of itself|holds another run"):
        states.resume(states.start(recipe, 10, 0), tmp_path, who)
