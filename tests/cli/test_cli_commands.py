"""The commands, run on a tiny network: what they print, write and exit with."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import cli_networks
import numpy as np
import pytest
import torch
from PIL import Image

import relprop
from commands import run
from relprop.cli import main
from relprop.core.backward.ledger import Entry, Ledger
from relprop.images import Preprocess, read_image
from relprop.report.conservation import ConservationTable
from relprop.report.pictures import half_on
from relprop.report.saved import ABOUT
from tiny import make

RAW = ("--format", "npy")  # without the figure, which takes most of the time


def document(*arguments: object, code: int = 0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


def expected(path) -> relprop.Relevance:
    prepare = Preprocess(size=16, resize=18, mean=(0.5,), std=(0.25,))
    return relprop.explain(make(5), prepare(read_image(path))[None])


# explain


def test_explain_writes_the_picture_the_floats_and_the_manifest(folder, model, tmp_path):
    out = tmp_path / "out"
    done = run("explain", folder / "a.png", *model, "--out", out)
    assert sorted(p.name for p in out.iterdir()) == ["a", "a.npy", "a.png"]
    assert any(p.suffix == ".json" for p in (out / "a").iterdir())
    for name in ("a.png", "a.npy", "a"):
        assert f"→ {out / name}" in done.stdout
    with Image.open(out / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    assert "probability" in done.stdout
    assert "a.png" in done.stdout


def test_multi_label_explains_the_sigmoid_of_each_class(folder, model, tmp_path):
    images = [folder / "a.png", *model, "--multi-label", "--target", "1,3"]
    rows = document("explain", *images, *RAW, "--out", tmp_path / "out")["images"]
    logits = expected(folder / "a.png").logits[0]
    assert [row["target"] for row in rows] == [1, 3]
    for row in rows:
        assert row["score"] == row["probability"] == pytest.approx(float(logits[row["target"]].sigmoid()), rel=1e-5)
    top = json.loads((tmp_path / "out" / "a-1" / ABOUT).read_text())["top"]
    assert [p for _, _, p in top] == pytest.approx(
        sorted(logits.sigmoid().tolist(), reverse=True)[: len(top)], rel=1e-5
    )
    assert document("conservation", *images)["start"] == pytest.approx(sum(row["score"] for row in rows), rel=1e-5)
    (row,) = document("explain", *images[:-2], "--contrast", "1,3", *RAW, "--out", tmp_path / "why")["images"]
    assert row["score"] == pytest.approx(float(logits[1].sigmoid() - logits[3].sigmoid()), rel=1e-5)


def test_explain_says_what_the_library_says(folder, model, tmp_path):
    report = document("explain", folder, *model, *RAW, "--out", tmp_path / "out", "--batch-size", 2)
    assert [row["image"] for row in report["images"]] == [str(folder / f"{n}.png") for n in "abc"]
    assert report["failures"] == []
    for row in report["images"]:
        result = expected(row["image"])
        assert row["target"] == int(result.target[0])
        assert row["class"] == f"class {row['target']}"
        assert row["score"] == pytest.approx(float(result.score[0]), rel=1e-6)
        assert row["sum"] == pytest.approx(row["score"], rel=1e-5)
        assert 0 <= row["gap"] < 1e-5
        raw = np.load(row["files"][0])
        assert raw == pytest.approx(result.heatmap[0].numpy(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("reading", ["default", "0.5*last-map~2+0.5*input"])
def test_explain_reads_the_map_from_several_cuts(folder, model, tmp_path, reading):
    from relprop.explainers.cuts import LrpCuts
    from relprop.report.saved import read_comparison

    report = document("explain", folder, *model, *RAW, "--combine", reading, "--out", tmp_path / "out")
    explainer = LrpCuts(reading)
    assert report["combine"] == explainer.chosen.text
    assert report["composite"] == explainer.chosen.composite
    prepare = Preprocess(size=16, resize=18, mean=(0.5,), std=(0.25,))
    for row in report["images"]:
        x = prepare(read_image(row["image"]))[None]
        heatmap = explainer(make(5), x, torch.tensor([row["target"]]))[0].numpy()
        assert np.load(row["files"][0]) == pytest.approx(heatmap, rel=1e-4, abs=1e-7)
        assert row["sum"] == pytest.approx(row["score"], rel=1e-5)
        comparison, about = read_comparison(Path(row["files"][1]))
        assert comparison.maps[0].heatmap.numpy() == pytest.approx(heatmap, rel=1e-4, abs=1e-7)
        assert about["combine"] == report["combine"]
    own = document(
        "explain", folder / "a.png", *model, *RAW, "--combine", reading, "-c", "paper", "--out", tmp_path / "own"
    )
    assert own["composite"] == "paper"
    wrong = run("explain", folder / "a.png", *model, *RAW, "--combine", "0.5*input", code=2)
    assert "the weights of layers must add up to 1" in wrong.output


def test_a_saved_result_is_that_image_alone(folder, model, tmp_path):
    report = document("explain", folder, *model, *RAW, "--out", tmp_path / "out")
    for row in report["images"]:
        saved = relprop.Relevance.load(row["files"][1])
        assert saved.relevance.shape == (1, 3, 16, 16)
        assert saved.heatmap[0].numpy() == pytest.approx(np.load(row["files"][0]))
        assert int(saved.target[0]) == row["target"]


def test_a_bad_file_costs_that_file_alone(folder, model, tmp_path):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "d.jpg").write_text("not a photograph")
    out = tmp_path / "out"
    report = document("explain", folder, *model, *RAW, "--out", out, code=1)
    assert [row["image"] for row in report["images"]] == [str(folder / "a.png"), str(folder / "c.png")]
    assert [row["image"] for row in report["failures"]] == [str(folder / "b.png"), str(folder / "d.jpg")]
    assert sorted(p.name for p in out.glob("*.npy")) == ["a.npy", "c.npy"]
    spoken = run("explain", folder, *model, *RAW, "--out", out, code=1).stderr
    assert f"{folder / 'b.png'} is damaged or truncated" in spoken
    assert "2 of 4 images could not be explained" in spoken


def test_nothing_but_bad_files_is_misuse(folder, model, tmp_path):
    for path in folder.iterdir():
        path.write_bytes(b"")
    done = run("explain", folder, *model, "--out", tmp_path, code=2)
    assert "a.png is empty (0 bytes)" in done.stderr
    assert "and 2 more" in done.stderr


def test_explain_takes_a_class_for_all_or_one_for_each(folder, model, tmp_path):
    all_same = document("explain", folder, *model, *RAW, "--out", tmp_path, "--target", 3)
    assert [row["target"] for row in all_same["images"]] == [3, 3, 3]
    each = document("explain", folder, *model, *RAW, "--out", tmp_path, "-t", 4, "-t", 0, "-t", 1)
    assert [row["target"] for row in each["images"]] == [4, 0, 1]


def test_explain_from_the_logit(folder, model, tmp_path):
    report = document("explain", folder / "a.png", *model, *RAW, "--out", tmp_path, "--start", "logit", "-t", 2)
    x = Preprocess(size=16, resize=18, mean=(0.5,), std=(0.25,))(read_image(folder / "a.png"))[None]
    assert report["images"][0]["score"] == pytest.approx(float(make(5)(x)[0, 2].detach()), rel=1e-5)


def test_quantized_pictures_differ_and_raw_floats_do_not(folder, model, tmp_path):
    run("explain", folder / "a.png", *model, "--out", tmp_path / "plain")
    run("explain", folder / "a.png", *model, "--out", tmp_path / "levels", "--quantize", 2)
    plain, levels = tmp_path / "plain", tmp_path / "levels"
    assert (plain / "a.npy").read_bytes() == (levels / "a.npy").read_bytes()
    assert (plain / "a.png").read_bytes() != (levels / "a.png").read_bytes()


def test_what_is_drawn_may_be_smoothed_and_the_files_stay_raw(folder, model, tmp_path):
    run("explain", folder / "a.png", *model, "--out", tmp_path / "plain")
    run("explain", folder / "a.png", *model, "--out", tmp_path / "smooth", "--post", "smooth:2")
    plain, smooth = tmp_path / "plain", tmp_path / "smooth"
    assert (plain / "a.npy").read_bytes() == (smooth / "a.npy").read_bytes()
    assert (plain / "a.png").read_bytes() != (smooth / "a.png").read_bytes()


def test_the_picture_is_smoothed_unless_told_and_says_so(folder, model, tmp_path):
    done = run("explain", folder / "a.png", *model, "--out", tmp_path / "default")
    assert "pictures are drawn after smooth:1, files hold the raw heatmap" in done.stdout
    run("explain", folder / "a.png", *model, "--out", tmp_path / "smooth", "--post", "smooth:1")
    raw = run("explain", folder / "a.png", *model, "--out", tmp_path / "raw", "--post", "none")
    assert "drawn after" not in raw.stdout
    pictures = [(tmp_path / name / "a.png").read_bytes() for name in ("default", "smooth", "raw")]
    assert pictures[0] == pictures[1] != pictures[2]
    assert (tmp_path / "default" / "a.npy").read_bytes() == (tmp_path / "raw" / "a.npy").read_bytes()


def test_several_classes_of_one_image_and_a_contrast(folder, model, tmp_path):
    image = folder / "a.png"
    several = document("explain", image, *model, *RAW, "--out", tmp_path / "s", "--target", "3,1")
    assert [(row["name"], row["target"]) for row in several["images"]] == [("a-3", 3), ("a-1", 1)]
    assert (tmp_path / "s" / "a-3.npy").exists()
    (row,) = document("explain", image, *model, *RAW, "--out", tmp_path / "c", "--contrast", "3,1")["images"]
    x = Preprocess(size=16, resize=18, mean=(0.5,), std=(0.25,))(read_image(image))[None]
    result = relprop.explain(make(5), x, target=relprop.targets.Contrast(3, 1))
    assert row["score"] == pytest.approx(float(result.score[0]), rel=1e-4)
    assert np.load(row["files"][0]) == pytest.approx(result.heatmap[0].numpy(), rel=1e-3, abs=1e-7)
    assert row["class"] == "class 3 rather than class 1"
    run("report", tmp_path / "c", "--out", tmp_path / "report.html")
    assert "class 3 rather than class 1" in (tmp_path / "report.html").read_text()
    both = run("explain", image, *model, *RAW, "--contrast", "3,1", "--target", "2", "--out", tmp_path, code=2)
    assert "give it or --target, not both" in both.stderr


def test_layers_and_formats(folder, model, tmp_path):
    run("explain", folder / "a.png", *model, "--out", tmp_path, "--layer", "bn2", "--format", "npz,csv")
    with np.load(tmp_path / "a.npz") as stored:
        arrays = dict(stored)
    assert np.array_equal(np.loadtxt(tmp_path / "a.csv", delimiter=",", dtype=np.float32), arrays["heatmap"])
    assert arrays["relevance"].sum(0) == pytest.approx(arrays["heatmap"], abs=1e-7)
    assert not (tmp_path / "a.npy").exists()
    x = Preprocess(size=16, resize=18, mean=(0.5,), std=(0.25,))(read_image(folder / "a.png"))[None]
    inside = relprop.LRP(make(5), keep=["bn2"])(x).at("bn2")[0]
    assert np.load(tmp_path / "a.bn2.npy") == pytest.approx(inside.numpy(), rel=1e-4, abs=1e-8)
    assert (tmp_path / "a.bn2.png").exists()
    assert "takes png, npy, npz and csv" in run("explain", *model, "--format", "tiff", code=2).stderr


@pytest.fixture
def titles(monkeypatch):
    """The titles of the panels of each figure that is written, with the label of its colour bar."""
    import relprop.viz

    seen = []

    def save(figure, path, keep=relprop.viz.save):
        labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
        seen.append(([axes.get_title() for axes in figure.axes if axes.get_title()], labels, figure.texts))
        return keep(figure, path)

    monkeypatch.setattr(relprop.viz, "save", save)
    return seen


def test_the_figure_sets_lrp_cuts_beside_the_papers_map(folder, model, tmp_path, titles):
    row = document("explain", folder / "a.png", *model, "-o", tmp_path / "out")["images"][0]
    panels, labels, texts = titles[0]
    assert panels == ["photograph", "paper", "lrp-cuts"]
    assert labels == ["share of the score per pixel, %"] * 2
    probabilities = expected(folder / "a.png").probabilities[0].sort(descending=True)
    following = [i for i in probabilities.indices.tolist() if i != row["target"]][:3]
    words = ", ".join(f"class {i} {100 * relprop_probability(folder / 'a.png', i):.1f} %" for i in following)
    assert any(text.get_text().startswith(f"next: {words}") for text in texts)


def relprop_probability(path, at: int) -> float:
    return float(expected(path).probabilities[0, at])


@pytest.mark.parametrize(
    ("options", "panels", "units"),
    [
        (
            ["--compare", "input-x-gradient,lrp-cuts"],
            ["photograph", "paper", "input-x-gradient", "lrp-cuts"],
            ["share", "relevance", "share"],
        ),
        (["--compare", "none"], [], ["share"]),
        (["-c", "epsilon"], [], ["share"]),
        (["--start", "logit"], ["photograph", "paper", "lrp-cuts:start=logit"], ["share", "share"]),
    ],
)
def test_compare_chooses_the_columns(folder, model, tmp_path, titles, options, panels, units):
    run("explain", folder / "a.png", *model, "-o", tmp_path / "out", *options)
    assert titles[0][0] == panels
    assert [label.split()[0] for label in titles[0][1]] == units


def test_a_column_that_fails_is_left_out_and_says_why(folder, model, tmp_path, titles):
    given = ("explain", folder / "a.png", *model, "-o", tmp_path / "out")
    done = run(*given, "--compare", "grad-cam:layer=nowhere,lrp-cuts")
    assert titles[0][0] == ["photograph", "paper", "lrp-cuts"]
    assert "a: grad-cam:layer=nowhere has no map" in done.stderr
    assert "no explainer" in run(*given, "--compare", "grad-cma", code=2).stderr
    assert "leave out --contrast" in run(*given, "--compare", "lrp-cuts", "--contrast", "0,1", code=2).stderr


def test_several_images_have_a_page_of_all(folder, model, tmp_path):
    out = tmp_path / "out"
    (folder / "a.png").rename(folder / "a <b> & #1.png")
    done = run("explain", folder, *model, "-o", out, "--box", "0,0,12,12")
    assert f"→ {out / 'index.html'}" in done.stdout
    page = (out / "index.html").read_text()
    links = [unquote(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page)]
    assert {"a <b> & #1.png", "b.png", "c.npy"} <= set(links)
    assert all((out / link).exists() for link in links)
    assert "a &lt;b&gt; &amp; #1: class" in page
    assert page.count("the box 0,0,12,12 holds") == 3
    run("explain", folder / "b.png", *model, "-o", tmp_path / "one")
    assert not (tmp_path / "one" / "index.html").exists()


def test_formats_are_those_asked_for(folder, model, tmp_path):
    run("explain", folder, *model, "-o", tmp_path / "out", "--format", "csv")
    assert {path.suffix for path in (tmp_path / "out").iterdir() if path.is_file()} == {".csv"}
    assert "takes png, npy, npz and csv" in run("explain", folder, *model, "--format", "gif", code=2).stderr


def test_a_region_holds_a_share_of_the_score(folder, model, tmp_path):
    out, mask = tmp_path / "out", tmp_path / "mask.png"
    drawn = Image.new("L", (24, 24))
    drawn.paste(1, (0, 0, 24, 12))
    drawn.save(mask)
    given = ("explain", folder / "a.png", folder / "b.png", *model, *RAW, "-o", out)
    rows = document(*given, "--box", "0,0,24,24", "--box", "4,0,10,24", "--mask", mask)["images"]
    for row, name in zip(rows, ("a.png", "b.png"), strict=True):
        result = expected(folder / name)
        score = float(result.score[0])
        whole, box, half = row["regions"]
        assert whole["share"] == pytest.approx(1, rel=1e-5)
        # 24 pixels become 18, of which the middle 16 are seen: x -> 0.75 x - 1
        assert box["sum"] == pytest.approx(float(result.sum((2, 0, 6.5, 16))), rel=1e-5)
        assert (box["area"], box["share"]) == (4.5 / 16, pytest.approx(box["sum"] / score, rel=1e-5))
        assert half["share"] == pytest.approx(float(result.sum((0, 0, 16, 8))) / score, abs=0.02)
        about = json.loads((out / row["name"] / ABOUT).read_text())
        assert about["regions"] == row["regions"]
    said = run(*given, "--box", "4,0,10,24").stdout
    assert f"a: the box 4,0,10,24 holds {100 * rows[0]['regions'][1]['share']:.1f} % of the score" in said
    run("report", out / "a", "-o", tmp_path / "report.html")
    assert "The box 4,0,10,24 holds" in (tmp_path / "report.html").read_text()


def test_a_region_is_outlined_in_the_picture(folder, model, tmp_path):
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    run("explain", folder / "a.png", *model, "-o", plain)
    run("explain", folder / "a.png", *model, "-o", marked, "--box", "8,8,16,16")
    before, after = (np.asarray(Image.open(out / "a.png").convert("RGB")).astype(int) for out in (plain, marked))
    changed = (before != after).any(-1)
    assert 0.001 < changed.mean() < 0.05
    assert (np.load(plain / "a.npy") == np.load(marked / "a.npy")).all()


def test_a_region_that_does_not_fit_costs_that_image_alone(folder, model, tmp_path):
    Image.new("RGB", (20, 20), "red").save(folder / "d.png")
    done = run("explain", folder, *model, *RAW, "-o", tmp_path / "out", "--box", "0,0,24,24", code=1)
    assert "d.png: the box 0,0,24,24 does not lie within the picture of 20 x 20 pixels" in done.stderr
    assert "1 of 4 images could not be explained" in done.stderr
    mask = tmp_path / "mask.png"
    Image.new("L", (5, 24), 9).save(mask)
    done = run("explain", folder / "a.png", *model, *RAW, "-o", tmp_path / "out", "--mask", mask, code=2)
    assert "5 x 24 pixels and the photograph 24 x 24; a mask is of the photograph's size" in done.stderr
    done = run("explain", folder / "a.png", *model, *RAW, "-o", tmp_path / "out", "--box", "9,9,3", code=2)
    assert "--box takes x0,y0,x1,y1 in pixels" in done.stderr


def test_class_names_from_a_file(folder, model, tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    named = [*model, "--classes", tmp_path / "names.txt", "--out", tmp_path / "out"]
    (row,) = document("explain", folder / "a.png", *named, *RAW, "--target", "Cat")["images"]
    assert (row["target"], row["class"]) == (2, "cat")
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    assert "2 class names were given, but the network has 5" in run("explain", folder, *named, code=2).stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["nowhere.png"], "there is no file or folder"), (["--target", "1000"], "class 1000 does not exist")],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(options, sentence, monkeypatch):
    def load(*given, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("relprop.cli.options.Network.load", load)
    for command in ("explain", "conservation", "report"):
        assert sentence in run(command, *options, code=2).stderr


def test_names_are_not_broken_in_a_narrow_terminal(monkeypatch):
    from rich.console import Console

    from relprop.cli import console

    for width, lines in ((80, 3), (200, 2)):
        drawn = Console(width=width, force_terminal=True, no_color=True, record=True, file=io.StringIO())
        monkeypatch.setattr(console, "out", drawn)
        made = console.table("image", "class", *(f">column{k}" for k in range(5)))
        made.add_row("a_long_name_of_a_photograph_2026.jpg", "rhinoceros-beetle", *["0.123456"] * 5)
        console.show(made)
        text = drawn.export_text()
        assert "a_long_name_of_a_photograph_2026.jpg" in text
        assert len(text.strip().splitlines()) >= lines


def test_split_and_identity_reach_the_rules(folder, model, tmp_path):
    maps = {}
    for name, options in {
        "default": [],
        "ratio": ["--split", "ratio", "--identity"],
        "symmetric": ["--split", "symmetric"],
        "none": ["--no-identity"],
    }.items():
        run("explain", folder / "a.png", *model, *RAW, "--out", tmp_path / name, *options)
        maps[name] = np.load(tmp_path / name / "a.npy")
    assert (maps["default"] == maps["ratio"]).all()
    assert not np.allclose(maps["default"], maps["symmetric"], rtol=1e-3, atol=0)
    assert not np.allclose(maps["default"], maps["none"], rtol=1e-3, atol=0)


def test_images_of_one_name_keep_apart(folder, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((folder / "b.png").read_bytes())
    run("explain", folder / "a.png", other / "a.png", *model, *RAW, "--out", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.npy")) == ["a-2.npy", "a.npy"]


def test_a_network_on_which_a_rule_diverges_gives_no_silent_nan(folder, model, tmp_path, monkeypatch):
    answer = relprop.LRP.forward

    def diverging(self, x, target=None, *, start="probability"):
        result = answer(self, x, target, start=start)
        result.relevance[0, 0, 0, 0] = float("nan")  # of the first image in each batch
        return result

    monkeypatch.setattr(relprop.LRP, "forward", diverging)
    done = run("explain", folder, *model, *RAW, "--out", tmp_path / "out", "--batch-size", 2, code=1)
    assert done.stderr.count("the relevance is not finite: 'paper' diverges on this network") == 2
    assert [p.name for p in (tmp_path / "out").glob("*.npy")] == ["b.npy"]


def test_the_table_shows_what_was_predicted_where_something_else_was_asked_for(folder, model, tmp_path):
    plain = run("explain", folder / "a.png", *model, *RAW, "--out", tmp_path)
    assert "predicted" not in plain.stdout
    row = document("explain", folder / "a.png", *model, *RAW, "--out", tmp_path)["images"][0]
    other = (row["predicted"] + 1) % 5
    asked = run("explain", folder / "a.png", *model, *RAW, "--out", tmp_path, "--target", other)
    assert "predicted" in asked.stdout
    assert f"class {row['predicted']}" in asked.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--target", "5"], "class 5 does not exist: the model has 5 classes"),
        (
            ["--target", "cat"],
            "the model brings no class names, so 'cat' cannot be found; give an index, or the names: --classes FILE",
        ),
        (["--composite", "papre"], "no composite is named 'papre'; did you mean 'paper'?"),
        (["--composite", "epsilon", "--split", "ratio"], "composite 'epsilon' has no option 'split'"),
        (["--split", "half"], "half"),
        (["--device", "abacus"], "there is no device 'abacus' here; there is cpu"),
        (["--mean", "1,2"], "--mean takes one number or three with commas"),
    ],
)
def test_misuse_of_explain(folder, model, tmp_path, options, sentence):
    done = run("explain", folder / "a.png", *model, "--out", tmp_path / "out", *options, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("nowhere.png", "there is no file or folder"), ("empty", "holds no picture")],
)
def test_images_that_are_not_there(model, tmp_path, name, sentence):
    (tmp_path / "empty").mkdir()
    assert sentence in run("explain", tmp_path / name, *model, "--out", tmp_path / "out", code=2).stderr


def test_an_output_folder_that_cannot_be_made(folder, model, tmp_path):
    (tmp_path / "out").write_text("a file")
    done = run("explain", folder / "a.png", *model, "--out", tmp_path / "out", code=2)
    assert f"error: {tmp_path / 'out'}: File exists" in done.stderr


@pytest.mark.parametrize(("values", "fraction"), [([1.0, 0, 0, 0], 0.25), ([1.0] * 4, 0.5), ([-3.0, 1, 1, 1], 0.25)])
def test_concentration(values, fraction):
    assert half_on(np.array(values, dtype=np.float64).reshape(2, 2)) == fraction


def in_this_process(arguments, monkeypatch, capfd) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["relprop", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capfd.readouterr()


def in_its_own_process(arguments, monkeypatch, capfd) -> tuple[int, str, str]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = [sys.executable, "-c", "from relprop.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("run", [in_this_process, pytest.param(in_its_own_process, marks=pytest.mark.slow)])
def test_json_and_complaints_are_kept_apart(run, folder, model, tmp_path, monkeypatch, capfd):
    (folder / "b.png").write_bytes(b"")
    arguments = ["explain", str(folder), *model, *RAW, "--out", str(tmp_path / "out"), "--json"]
    code, out, errors = run(arguments, monkeypatch, capfd)
    assert code == 1
    report = json.loads(out)
    assert [len(report["images"]), len(report["failures"])] == [2, 1]
    assert errors == ""  # the failure is in the document


# check


def test_check_lists_every_operation_and_its_rule(model):
    done = run("check", *model[1:])
    assert "every one of" in done.stdout
    assert "1 residual joins: 1 with an identity skip" in done.stdout
    report = document("check", *model[1:])
    assert report["missing"] == []
    joins = [row["branches"] for row in report["steps"] if row["branches"]]
    assert joins == [["main", "identity skip"]]
    operations = {row["op"] for row in report["steps"]}
    assert {"conv", "linear", "relu", "add"} <= operations
    assert "bn2" in run("check", *model[1:], "--steps").stdout


def test_check_shows_what_each_branch_of_a_join_gets(model, tmp_path):
    Image.effect_noise((20, 20), 90).convert("RGB").save(tmp_path / "noise.png")
    report = document("check", *model[1:], "--image", str(tmp_path / "noise.png"))
    assert [report["family"], report["composite"]] == ["convolutional network", "paper"]
    (join,) = report["joins"]
    assert join["kinds"] == ["main", "identity skip"]
    assert sum(join["shares"]) == pytest.approx(1)
    assert all(0 < share < 1 for share in join["shares"])
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    named = ["--image", str(tmp_path / "noise.png"), "--classes", tmp_path / "names.txt"]
    name = document("check", *model[1:], *named)["class"]
    assert name == ["ant", "bee", "cat", "dog", "eel"][int(report["class"].removeprefix("class "))]
    assert f"of the relevance for {name}:" in run("check", *model[1:], *named).stdout


def test_check_says_that_a_run_was_recorded(tmp_path):
    torch.save(cli_networks.branching().state_dict(), tmp_path / "branching.pt")
    model = [
        tmp_path / "branching.pt",
        "--arch",
        "cli_networks:branching",
        "--size",
        "16",
        "--mean",
        "0.5",
        "--std",
        "0.5",
    ]
    Image.effect_noise((20, 20), 90).convert("RGB").save(tmp_path / "noise.png")
    done = run("check", *model, "--image", tmp_path / "noise.png")
    assert "2 residual joins" in done.stdout
    assert done.stderr == ""


def test_check_names_everything_that_is_missing(tmp_path):
    torch.save(cli_networks.odd().state_dict(), tmp_path / "odd.pt")
    model = [str(tmp_path / "odd.pt"), "--arch", "cli_networks:odd", "--size", "16", "--mean", "0.5", "--std", "0.5"]
    report = document("check", *model, code=1)
    assert len(report["missing"]) >= 2
    done = run("check", *model, code=1)
    assert "none" in done.stdout
    assert "have no rule" in done.stdout
    for row in report["missing"]:
        assert row["rule"] is None
        assert "cli_networks.py" in row["source"]
        assert f"{row['op']} at {row['name']}" in done.stdout


# conservation


def test_conservation_balances(folder, model):
    done = run("conservation", folder, *model)
    assert "✓ no leak: at most" in done.stdout
    assert "✓ the score is conserved" in done.stdout
    report = document("conservation", folder, *model)
    assert report["balances"] is True
    assert 0 <= report["gap"] <= 1e-5
    assert report["images"] == 3
    assert [row["block"] for row in report["blocks"]][-1] == "conv1"
    assert "conv2" in {row["block"] for row in report["blocks"]}
    assert report["end"] == pytest.approx(report["start"], rel=1e-5)
    assert report["blocks"][-1]["sent"] == pytest.approx(report["end"], rel=1e-5)


def test_conservation_fails_where_less_is_allowed(folder, model):
    assert "✗ relevance leaks: " in run("conservation", folder, *model, "--rtol", 0, code=1).stdout


def test_absorbed_relevance_is_itemised_and_no_leak(folder, model):
    done = run("conservation", folder, *model, "--composite", "epsilon:0.1")
    assert "✓ no leak" in done.stdout
    assert "✗ the score is not conserved: rules " in done.stdout
    report = document("conservation", folder, *model, "--composite", "epsilon:0.1")
    assert report["absorbed"] > 1e-3
    assert report["balances"] is True


def test_a_bad_file_fails_the_check_too(folder, model):
    (folder / "b.png").write_bytes(b"x")
    report = document("conservation", folder, *model, code=1)
    assert report["balances"] is True
    assert [row["image"] for row in report["failures"]] == [str(folder / "b.png")]


def line(name: str, received: float, sent: float, conserves: bool = True) -> Entry:
    one = torch.tensor([received], dtype=torch.float64)
    return Entry(name, "conv", "rule", conserves, one, torch.tensor([sent], dtype=torch.float64), one.abs())


def test_the_book_adds_up_by_block():
    one = torch.ones(1, dtype=torch.float64)
    entries = (
        line("fc", 1.0, 0.75, conserves=False),
        line("layer1.0.conv2", 0.75, 0.75),
        line("layer1.0.conv1", 0.75, 0.5),
        line("conv1", 0.5, 0.5),
    )
    book = ConservationTable(depth=2)
    for _ in range(2):
        book.add(Ledger(entries, one, 0.5 * one))
    report = book.document()
    blocks = {row["block"]: (row["received"], row["sent"], row["leak"], row["absorbed"]) for row in report["blocks"]}
    assert blocks == {
        "fc": (2, 1.5, 0, 0.25),
        "layer1.0": (1.5, 1, 0.25, 0),
        "conv1": (1, 1, 0, 0),
    }
    assert (report["start"], report["end"], report["gap"], book.images) == (2, 1, 0.25, 2)


def test_a_number_that_is_missing_never_balances():
    nan = torch.tensor([float("nan")], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    book = ConservationTable(depth=2)
    book.add(Ledger((line("fc", 1.0, float("nan")),), one, nan))
    book.add(Ledger((line("fc", 1.0, 1.0),), one, one))
    assert not book.gap <= 1e300


# models that cannot be used: one sentence, and exit code 2


class Code:
    def __reduce__(self):
        return print, ("this code ran",)


def fitting(path):
    torch.save(make(5).state_dict(), path)


def of_another_shape(path):
    torch.save({**make(5).state_dict(), "fc.weight": torch.zeros(5, 7)}, path)


def holding_code(path):
    torch.save({"state_dict": Code()}, path)


def truncated(path):
    fitting(path)
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("write", "options", "sentence"),
    [
        (fitting, [], "--arch"),
        (fitting, ["--arch", "cli_networks:nothing"], "nothing"),
        (of_another_shape, ["--arch", "tiny:make"], "fc.weight"),
        (holding_code, ["--arch", "tiny:make"], "print"),
        (truncated, ["--arch", "tiny:make"], "model.pt"),
        (None, ["--arch", "tiny:make"], "model.pt"),
    ],
)
def test_checkpoints_that_cannot_be_used(folder, tmp_path, write, options, sentence):
    path = tmp_path / "model.pt"
    if write:
        write(path)
    for command in (["explain", folder], ["conservation", folder]):
        done = run(*command, "--model", path, *options, "--size", 16, "--mean", "0.5", "--std", "0.5", code=2)
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert sentence in done.stderr
        assert "this code ran" not in done.output


def test_an_exported_program_needs_trust(folder, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"anything")
    done = run("explain", folder, "--model", tmp_path / "model.pt2", code=2)
    assert "trust" in done.stderr


def test_explain_names_every_operation_without_a_rule(folder, tmp_path):
    torch.save(cli_networks.odd().state_dict(), tmp_path / "odd.pt")
    model = [
        "--model",
        tmp_path / "odd.pt",
        "--arch",
        "cli_networks:odd",
        "--size",
        16,
        "--mean",
        "0.5",
        "--std",
        "0.5",
    ]
    done = run("explain", folder, *model, "--out", tmp_path / "out", code=2)
    for operation in ("sort", "fft"):
        assert operation in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["resnet5000", "nowhere.nothing:make", "random:resnet5000"])
def test_models_that_do_not_exist(folder, tmp_path, name):
    done = run("explain", folder, "--model", name, "--out", tmp_path / "out", code=2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert name.removeprefix("random:").partition(":")[0] in done.stderr
