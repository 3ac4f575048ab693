"""`relprop reproduce table1`, `table2`, `table3` on a tiny network: each number against `relprop.evaluate`."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest
import torch
from reproduce_net import OPTIONS, network

import relprop
from relprop.models import load_model
from relprop.reproduce.published import METRICS, published
from tiny import pictures

pytest.importorskip("polars")
pytest.importorskip("captum")


def rows(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Lines of a CSV file by protocol, row and metric."""
    with path.open() as file:
        return {(line["protocol"], line["row"], line["metric"]): line for line in csv.DictReader(file)}


def evaluated(data: str, explainer: str, post: str, protocol: str, seed: int = 0, **options) -> dict[str, float]:
    """Means by metric, from the library."""
    model = load_model("reproduce_net:make", size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = relprop.evaluate(
        model, data, [explainer], post=post, protocol=protocol, seed=seed, controls=False, **options
    )
    return {metric: statistics.fmean(row.value for row in found if row.metric == metric) for metric in METRICS}


HQ = "quantize:levels=8:edges=equation"
TABLE2 = {
    "(i) symmetric, not at identity joins": ("lrp:composite=paper:split=symmetric:identity=false", HQ),
    "(iv) ratio-based, at all joins": ("lrp:composite=paper:split=ratio:identity=true", HQ),
    "constant": ("constant", "none"),
    "Sobel edges + HQ": ("sobel", HQ),
}


def test_table2_is_what_evaluate_says_and_resumes(reproduce, data, tmp_path):
    arguments = ("table2", "--samples", 6, "--step", 8, "--batch-size", 2, "--out", tmp_path)
    code, out, err = reproduce(*arguments)
    assert code == 0
    found = rows(tmp_path / "table2.csv")
    assert len(found) == 2 * (4 + 4) * 3
    for name, (explainer, post) in TABLE2.items():
        for protocol in ("paper-protocol", "fair"):
            expected = evaluated(data, explainer, post, protocol, samples=6, step=8)
            for metric, value in expected.items():
                line = found[protocol, name, metric]
                assert float(line["ours"]) == pytest.approx(value, abs=1e-6)
                assert (line["n"], line["failures"], line["unit"]) == ("6", "0", "fraction")
    assert "Published: ResNet-50 on ImageNet, 1,000 pictures" in out
    assert f"Ours: reproduce_net:make on folder:{Path(data).name}, 6 pictures, 8 pixels a step." in out
    assert "another network, other pictures, 6 pictures for 1,000, other steps" in " ".join(out.split())
    for row in published("table2").rows:
        for metric, value in zip(METRICS, row.values, strict=True):
            line = found["paper-protocol", row.name, metric]
            assert float(line["published"]) == value
            assert float(line["difference"]) == pytest.approx(float(line["ours"]) - value)
    assert found["fair", "constant", "id"]["published"] == found["fair", "constant", "id"]["difference"] == ""

    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/shards/*.parquet")}
    assert len(shards) == 3  # all rows of two pictures each
    assert "forward passes a picture" in err
    lost = min(shards)
    lost.unlink()
    before = (tmp_path / "table2.csv").read_text()
    assert reproduce(*arguments)[:2] == (0, out)  # what was lost is computed again, the rest is left alone
    assert (tmp_path / "table2.csv").read_text() == before
    kept = {path: path.stat().st_mtime_ns for path in shards}
    assert {path for path in shards if kept[path] != shards[path]} == {lost}


def test_table1_reads_gradients_as_the_release_does_and_fairly(reproduce, data, tmp_path):
    methods = "lrp,integrated-gradients,grad-cam,proposed"
    arguments = ["--samples", 4, "--step", 16, "--methods", methods, "--cam-layer", "skip", "--out", tmp_path]
    code, out, _ = reproduce("table1", *arguments, "--composite", "released")
    assert code == 0
    found = rows(tmp_path / "table1.csv")
    specs = {
        ("paper-protocol", "Integrated Gradients"): ("integrated-gradients:channels=red", "none"),
        ("fair", "Integrated Gradients"): ("integrated-gradients", "none"),
        ("fair", "Grad-CAM"): ("grad-cam:layer=skip", "none"),
        ("fair", "proposed (HQ)"): ("lrp:composite=released", "quantize:8:release"),
        ("fair", "lrp-cuts"): ("lrp-cuts", "none"),
    }
    for (protocol, name), (explainer, post) in specs.items():
        expected = evaluated(data, explainer, post, protocol, samples=4, step=16)
        for metric in METRICS:
            assert float(found[protocol, name, metric]["ours"]) == pytest.approx(100 * expected[metric], abs=1e-4)
    assert ("fair", "Score-CAM", "id") not in found
    lrp = found["paper-protocol", "LRP", "id"]
    assert (lrp["ours"], lrp["difference"], lrp["n"], lrp["failures"]) == ("", "", "0", "4")
    assert "captum-lrp failed on 4 pictures" in out


def test_table3_shows_what_quantization_does_to_controls(reproduce, tmp_path):
    code, out, _ = reproduce("table3", "-n", 2, "--step", 0.5, "--amp", "--out", tmp_path)
    assert (code, "0.5 of the pixels a step, masked pictures scored in bfloat16." in out) == (0, True)
    found = rows(tmp_path / "table3.csv")
    names = [name for protocol, name, metric in found if (protocol, metric) == ("fair", "id")]
    assert names[:2] == [row.name for row in published("table3").rows]
    assert names[2:] == [
        "constant",
        "random",
        "centred Gaussian",
        "Sobel edges",
        "random + HQ",
        "centred Gaussian + HQ",
        "Sobel edges + HQ",
    ]
    markdown = (tmp_path / "table3.md").read_text()
    assert markdown.count("| --- | ---: |") == 2
    assert f"| {names[0]} |" in markdown
    latex = (tmp_path / "table3.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    assert latex.count(r" \\") == 2 * (2 + len(names))
    assert (tmp_path / "table3.txt").read_text().count(names[0]) == 2


def test_several_checkpoints_give_mean_and_standard_deviation(reproduce, tmp_path):
    for seed in (3, 4):
        torch.save(network(seed).state_dict(), tmp_path / f"net-{seed}.pt")
    options = ["--arch", "reproduce_net:make", *OPTIONS[2:]]
    arguments = ["-n", 4, "--step", 16, "--methods", "proposed", "--out", tmp_path / "out"]

    def ours(model: str) -> tuple[dict[str, dict[str, str]], str]:
        given = ("--model", tmp_path / model, "--against", "cub", "--seeds", "3-4" if "{" in model else "0")
        code, out, _ = reproduce("table1", *arguments, *given, options=options)
        assert code == 0
        found = rows(tmp_path / "out" / "table1.csv")
        return {metric: found["fair", "proposed (HQ)", metric] for metric in METRICS}, out

    three, four = (ours(f"net-{seed}.pt")[0] for seed in (3, 4))
    both, out = ours("net-{seed}.pt")  # measures nothing: the runs are there
    for metric in METRICS:
        values = [float(one[metric]["ours"]) for one in (three, four)]
        assert float(both[metric]["ours"]) == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert float(both[metric]["spread"]) == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert [both[metric]["published_deviation"] for metric in METRICS] == ["1.0", "0.0", "1.0"]
    assert "59.5 ± 1.0" in out
    assert "± is the standard deviation over runs." in out
    assert "net-3, net-4" in out


def test_a_picture_that_cannot_be_read_costs_that_picture_and_exit_code_1(reproduce, tmp_path):
    root = pictures(tmp_path / "data", 4)
    (root / "0_cat.002.png").write_bytes((root / "0_cat.002.png").read_bytes()[:80])
    arguments = ("-n", 4, "--step", 32, "--methods", "proposed", "--data", f"folder:{root}", "--out", tmp_path / "out")
    code, out, _ = reproduce("table1", *arguments)
    assert (code, "1 pictures could not be read." in out) == (1, True)
    assert rows(tmp_path / "out" / "table1.csv")["fair", "constant", "id"]["n"] == "3"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table2", "--against", "cub"], "the paper gives table2 for ImageNet alone"),
        (["table1", "--methods", "gradcam"], "--methods gradcam: there is no such row; there are lrp,"),
        (["table2", "--methods", "proposed"], "--methods goes with table1, figure5, and does nothing for table2"),
        (["figure7", "--step", "5"], "--step goes with table1, table2, table3, and does nothing for figure7"),
        (["table1", "--seeds", "4-"], "--seeds takes whole numbers such as 0,1,2 or 40-44, not '4-'"),
        (["table1", "--seeds", "1,1"], "names no seed, or one twice"),
        (["figure5", "--seeds", "1,2"], "shows one model and one choice of pictures"),
        (["table1", "--data", "imagenet:nowhere"], "there are no ILSVRC2012 validation pictures in"),
        (["table1", "--samples", "9"], "9 samples were asked for; the data set holds 8"),
        (["table4"], "'table4' is not one of 'table1'"),
    ],
)
def test_mistakes_are_one_sentence(reproduce, tmp_path, arguments, sentence):
    code, _, err = reproduce(*arguments, "--out", tmp_path)
    assert (code, sentence in err) == (2, True), err


def test_the_defaults_are_the_papers_and_missing_data_say_what_to_download(reproduce, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, sentence in (
        (["--data", "imagenet:data/imagenet"], "download ILSVRC2012_img_val.tar"),
        (["--data", "cub:data/CUB_200_2011"], "download CUB_200_2011.tgz"),
    ):
        code, _, err = reproduce("table1", *arguments, options=[])
        assert (code, sentence in err) == (2, True), err
