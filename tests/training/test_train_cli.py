"""`relprop train` on trees of pictures laid out as CUB-200-2011 and as a plain folder, through the real code path."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from relprop.cli.train import train
from relprop.errors import DataError, UsageError

TINY = ["init=random", "arch=cifar-resnet8-b", "size=16", "resize=18", "batch=4", "epochs=2", "holdout=0.25"]
SET = [part for setting in TINY for part in ("--set", setting)]


def run(*arguments):
    app = typer.Typer()
    app.command()(train)
    outcome = CliRunner().invoke(app, list(map(str, arguments)), standalone_mode=False)
    if outcome.exception is not None:
        raise outcome.exception
    return outcome


def metrics_of(out):
    return (out / "seed-40" / "metrics.jsonl").read_text().splitlines()


def picture(path, colour, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-40, 40, (24, 20, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def cub(tmp_path):
    """A tree with every file of CUB_200_2011.tgz: 3 classes of 8 pictures, every fourth for the test."""
    root = tmp_path / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    tables = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")}
    for index in range(24):
        label, number = index % 3, index + 1
        name = f"{names[label]}/{names[label][4:]}_{number:04d}_{796000 + number}.jpg"
        picture(root / "images" / name, [(200, 60, 60), (60, 200, 60), (60, 60, 200)][label], index)
        tables["images"].append(f"{number} {name}")
        tables["image_class_labels"].append(f"{number} {label + 1}")
        tables["train_test_split"].append(f"{number} {int(index // 3 % 4 != 0)}")
        tables["bounding_boxes"].append(f"{number} 2.0 3.0 10.0 12.0")
    tables["classes"] = [f"{index} {name}" for index, name in enumerate(names, start=1)]
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "parts").mkdir()
    (root / "parts" / "parts.txt").write_text("1 back\n2 beak\n")
    (root / "parts" / "part_locs.txt").write_text("".join(f"{n} 1 5.0 6.0 1\n{n} 2 0.0 0.0 0\n" for n in range(1, 25)))
    return root


def test_the_cub_recipe_trains_its_seeds_and_measures_them(cub, tmp_path):
    out = tmp_path / "runs"
    outcome = run(
        "cub", "--data", f"cub:{cub}:split=train", "--test", f"cub:{cub}:split=test", "-o", out, "--json", *SET,
        "--set", "precision=bf16-mixed", "--set", "seeds=40,41",
    )  # fmt: skip
    document = json.loads(outcome.stdout)
    assert document["recipe"]["lr"] == 1e-3
    assert [entry["seed"] for entry in document["runs"]] == [40, 41]
    for entry in document["runs"]:
        folder = out / f"seed-{entry['seed']}"
        assert entry["test_accuracy"] * 6 == pytest.approx(round(entry["test_accuracy"] * 6))  # six test pictures
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
        assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
        card = (folder / "model.md").read_text()
        assert "| 002.Laysan_Albatross |" in card
        assert f"Recipe `cub`, seed {entry['seed']}: 2 epochs" in card


def test_a_folder_is_learnt_and_told_as_a_table(tmp_path):
    for index in range(24):
        kind = ("dark", "light")[index % 2]
        picture(tmp_path / "data" / kind / f"{index}.png", [(50, 50, 50), (200, 200, 200)][index % 2], index)
    root = tmp_path / "data"
    settings = [part for setting in ("lr=0.05", "epochs=6", "schedule=constant") for part in ("--set", setting)]
    outcome = run(f"folder:{root}", "--test", f"folder:{root}", "-o", tmp_path / "out", "--seed", 7, *SET, *settings)
    header, row = outcome.stdout.splitlines()
    assert header.split() == ["seed", "epochs", "kept", "validation", "test", "weights"]
    assert row.split()[0] == "7"
    assert row.split()[-2:] == ["%", str(tmp_path / "out" / "seed-7" / "model.safetensors")]
    assert float(row.split()[-3]) >= 95
    assert "epoch   6/6" in outcome.stderr


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from relprop.data import open_dataset
from relprop.training import RECIPES, Step, override, train

torch.set_num_threads(1)
root, out, at, *settings = sys.argv[1:]
recipe = override(RECIPES.build("cub"), *settings)
for event in train(recipe, open_dataset(root), Path(out), seed=40, device="cpu"):
    if isinstance(event, Step) and (event.epoch, event.step) == (1, int(at)):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL, which this system lacks")
@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(cub, tmp_path):
    import torch

    threads = torch.get_num_threads()
    arguments = ["cub", "--data", f"cub:{cub}:split=train", "--seed", 40, "--device", "cpu", *SET]
    script = [sys.executable, "-c", KILLED, f"cub:{cub}:split=train", str(tmp_path / "killed" / "seed-40"), "1", *TINY]
    killed = subprocess.run(script, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "killed" / "seed-40" / "model.safetensors").exists()
    torch.set_num_threads(1)
    try:
        run(*arguments, "-o", tmp_path / "killed")
        run(*arguments, "-o", tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    killed_weights, weights = (
        load_file(tmp_path / name / "seed-40" / "model.safetensors") for name in ("killed", "whole")
    )
    assert weights.keys() == killed_weights.keys()
    assert all(torch.equal(weights[name], killed_weights[name]) for name in weights)
    losses = [[json.loads(line)["val_loss"] for line in metrics_of(tmp_path / name)] for name in ("killed", "whole")]
    assert losses[0] == losses[1]


def test_fresh_forgets_the_run_that_is_there(cub, tmp_path):
    arguments = ["cub", "--data", f"cub:{cub}:split=train", "--seed", 40, "-o", tmp_path / "out", *SET]
    run(*arguments, "--set", "epochs=1")
    with pytest.raises(UsageError, match="holds another run: its epochs is 1, not 2"):
        run(*arguments)
    run(*arguments, "--fresh")
    assert len((tmp_path / "out" / "seed-40" / "metrics.jsonl").read_text().splitlines()) == 2


def test_show_prints_every_setting():
    lines = run("cub", "--show", "-s", "lr=0.01").stdout.splitlines()
    assert "lr               0.01" in lines
    assert "seeds            40,41,42,43,44" in lines
    assert json.loads(run("cub", "--show", "--json").stdout)["patience"] == 6


def test_misuse_is_said_before_anything_is_trained(cub):
    with pytest.raises(UsageError, match="recipe 'cub' does not say where its pictures are; add --data cub:"):
        run("cub")
    with pytest.raises(UsageError, match="no recipe is named 'cubs'; did you mean 'cub'"):
        run("cubs")
    with pytest.raises(UsageError, match=r"on 2 devices one seed is trained at a time; .* each of \[40, 41"):
        run("cub", "--data", f"cub:{cub}:split=train", "--devices", 2)
    with pytest.raises(UsageError, match=r"cannot train on 1 x 'abacus': .*abacus"):
        run("cub", "--data", f"cub:{cub}:split=train", "--device", "abacus", *SET)
    with pytest.raises(DataError, match="there is no folder"):
        run("folder:nowhere")
