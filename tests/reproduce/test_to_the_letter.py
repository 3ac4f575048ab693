"""The authors' checkpoints, pictures, Score-CAM and a cluster: what stands beside the paper's tables and figures."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from reproduce_net import OPTIONS
from torchvision.models import resnet50

import commands
from relprop.evaluation import ModelSpec
from relprop.models import load_model
from relprop.reproduce.cost import is_resnet50, look, passes
from relprop.reproduce.maps import TABLE3_NOTE, table1
from relprop.reproduce.setting import Setting
from relprop.reproduce.table import jobs_of
from tiny import pictures

sys.path.append(str(Path(__file__).parents[1] / "data"))
import trees

pytest.importorskip("polars")
pytest.importorskip("captum")


def run(*arguments, code=0):
    return " ".join(commands.run("reproduce", *arguments, "--device", "cpu", code=code).output.split())


def lines(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Two checkpoints as the release has them, ResNet-50 with 200 classes, and CUB as distributed."""
    root = tmp_path_factory.mktemp("released")
    for seed in (40, 42):
        torch.manual_seed(seed)
        path = root / "checkpoints" / f"CUB_resnet50_Seed{seed}" / "best.pt"
        path.parent.mkdir(parents=True)
        torch.save(resnet50(num_classes=200).state_dict(), path)
    trees.cub(root)
    return root


def given(root, seeds="40,42"):
    model = ["--model", root / "checkpoints" / "CUB_resnet50_Seed{seed}" / "best.pt", "--arch", "resnet50"]
    return [*model, "--seeds", seeds, "--data", f"cub:{root}", "--size", "32"]


@pytest.mark.slow
def test_table_1_of_the_authors_checkpoints(released, tmp_path):
    arguments = ["table1", "--against", "cub", *given(released), "--samples", 2, "--step", 512, "--out", tmp_path]
    said = run(*arguments, "--methods", "grad-cam,proposed")
    found = {(row["protocol"], row["row"], row["metric"]): row for row in lines(tmp_path / "table1.csv")}
    row = found["paper-protocol", "proposed (HQ)", "id"]
    assert (row["n"], row["failures"], row["published"], row["published_deviation"]) == ("2", "0", "58.2", "1.0")
    assert "not the paper's setting: 2 pictures for 1,000, 2 model(s) for 5, other steps" in said  # but its network


@pytest.mark.slow
def test_figures_of_cub_take_one_seed_and_the_releases_pictures(released, tmp_path):
    picture = tmp_path / "qual" / "Laysan_Albatross.png"
    picture.parent.mkdir()
    Image.new("RGB", (40, 30), (90, 120, 60)).save(picture)
    arguments = [*given(released)[:4], *given(released)[6:], "--out", tmp_path]  # without --seeds: 42 is there
    run("figure3", *arguments, "--images", picture)
    assert (tmp_path / "figure3.png").stat().st_size > 1000
    assert "no file called by a class is there" in run("figure3", *arguments, "--images", "bee.png", code=2)


@pytest.mark.slow
def test_figure_5_mixes_data_sets_and_models(released, tmp_path):
    folder = pictures(tmp_path / "pictures", 4)
    both = ["--data", f"cub:{released}", "--data", f"folder:{folder}", "--size", "32", "--methods", "proposed"]
    cub, ours = released / "checkpoints" / "CUB_resnet50_Seed42" / "best.pt", "random:cifar-resnet20"
    images = "Laysan Albatross,dog.001"
    models = ["--model", cub, "--model", ours, "--arch", "resnet50"]
    run("figure5", *both, *models, "--images", images, "--out", tmp_path)
    assert (tmp_path / "figure5.pdf").read_bytes()[:5] == b"%PDF-"
    said = run("figure5", *both, *models, "--images", "zebra", "--out", tmp_path, code=2)
    assert said.count("no class 'zebra'") == 2
    assert "need as many models" in run("figure5", *both, "--model", cub, "--arch", "resnet50", code=2)
    assert "give --data once" in run("table1", *both[:4], code=2)


@pytest.mark.slow
def test_a_wrong_network_is_named_on_cub_and_a_local_file_of_the_right_one_is_not(released, tmp_path):
    file = released / "checkpoints" / "CUB_resnet50_Seed40" / "best.pt"
    assert is_resnet50(load_model(file, arch="resnet50"))
    assert not is_resnet50(load_model("random:resnet34"))
    model = [*OPTIONS[:-2], "--seeds", 0, "--data", f"cub:{released}"]
    said = run("table1", *model, "--methods", "proposed", "--samples", 2, "--step", 512, "--out", tmp_path)
    assert "not the paper's setting: another network" in said


def test_passes_are_counted_by_hand():
    setting = Setting((ModelSpec("reproduce_net:make", size=8, mean=(0.5,), std=(0.25,)),), "folder:x", 4, step=16)
    network = look(setting)
    assert (network.side, network.channels, network.resnet50) == (8, 6, False)
    assert network.seconds > 0
    (job, cuts) = jobs_of(table1(setting, "imagenet"), setting)
    # steps of 16 of 64 pixels: 4 points as released, 5 fair; quantized, tied together: 4 points at most anyway
    released, fair = 10, 10
    curves = 2 * 4 * (released - 1) + 2 * 1 + 2 * 5 * fair  # of the constant map there is one picture
    explainers = 3 * (1 + 1 + 1 + 1) + 3 * 50 + (6 + 1)
    assert passes(job.plan, network) == 1 + explainers + curves
    assert passes(cuts.plan, network) == 1 + 3 + 2 * 4 + 2 * 5


def test_released_rules_bring_the_released_score_cam_and_rows_that_are_not_the_papers():
    setting = Setting((ModelSpec("x"),), "folder:x", 4, composite="released", also=("layer-cam", "rise:masks=9"))
    specs = {row.name: row.specs["fair"][0] for row in table1(setting, "imagenet")}
    assert specs["Score-CAM"] == "score-cam:weights=probability"
    assert {"layer-cam", "rise:masks=9"} <= set(specs)
    plain = Setting((ModelSpec("x"),), "folder:x", 4, amp=True)
    assert {row.name: row.specs["fair"][0] for row in table1(plain, "imagenet")}["Score-CAM"] == "score-cam:amp=true"
    assert [len(job.rows) for job in jobs_of(table1(setting, "imagenet"), setting)] == [10, 1, 1, 1]


def test_table_3_shows_any_variant_with_and_without_quantization(reproduce, tmp_path):
    arguments = ("table3", "-n", 2, "--step", 32, "--out", tmp_path)
    code, out, _ = reproduce(*arguments, "--variants", "i,iv")
    assert (code, TABLE3_NOTE in out) == (0, True)
    rows = {row["row"]: row["published"] for row in lines(tmp_path / "table3.csv")[::3]}
    assert list(rows)[:4] == [
        "(i) without Heat Quantization",
        "(ii) with Heat Quantization",
        "(iv) of Table 2",
        "(iv) of Table 2 + HQ",
    ]
    assert (rows["(iv) of Table 2"], rows["(i) without Heat Quantization"]) == ("", "0.442")
    code, _, err = reproduce(*arguments, "--variants", "v")
    assert (code, "Table 2 has i, ii, iii, iv" in err) == (2, True)


def test_too_few_pictures_are_noticed_before_the_model_is_loaded(reproduce):
    code, _, err = reproduce("table2", "-n", 9, "--model", "nowhere.pt", options=[])
    assert (code, "9 samples were asked for; the data set holds 8" in err) == (2, True)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.slow
def test_two_ray_workers_give_the_rows_of_one_process(reproduce, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    arguments = ("table2", "-n", 6, "--step", 16, "--batch-size", 2)
    try:
        code, _, _ = reproduce(*arguments, "--ray", "local", "--workers", 2, "--out", tmp_path / "ray")
    finally:
        ray.shutdown()
    assert code == 0
    assert reproduce(*arguments, "--out", tmp_path / "here")[0] == 0
    texts = [(tmp_path / place / "table2.csv").read_text() for place in ("ray", "here")]
    assert texts[0] == texts[1]
    sessions = [path.read_text() for path in (tmp_path / "ray" / "runs").glob("*/sessions/*.json")]
    assert any("ray local" in text for text in sessions)


def test_options_that_would_do_nothing_are_refused(reproduce):
    for experiment, option in (("table2", "--also"), ("table1", "--variants"), ("figure3", "--ray")):
        code, _, err = reproduce(experiment, option, "i")
        assert (code, f"does nothing for {experiment}" in err) == (2, True)
