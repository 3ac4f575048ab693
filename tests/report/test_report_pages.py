"""Whole reports: of results, of runs, of images; one file, nothing outside it, readable by machines too."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from torch import nn

import commands
import relprop
from relprop.errors import InputError, RunError
from relprop.evaluation import ModelSpec, Row
from relprop.evaluation.store import open_run
from relprop.images import Preprocess
from relprop.models import LoadedModel
from relprop.report.of_comparisons import report_of_comparisons
from relprop.report.of_run import report_of_run
from relprop.report.render import render
from relprop.report.saved import annotate, report_of_results
from relprop.sessions import Session
from tiny import OPTIONS as MODEL
from tiny import make, picture, pictures

CLASSES = ("ant", "<script>alert(1)</script>")
PREPARE = Preprocess(size=8, resize=8, mean=(0.5,), std=(0.25,))
VOID = {"meta", "img", "br", "link", "input"}


def session() -> Session:
    return Session(LoadedModel(make(), "tiny", PREPARE, CLASSES, "weights in /home/somebody/models/tiny.pt"))


class Page(HTMLParser):
    """Reads a page: its tags, its text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def read(text: str) -> Page:
    """Check what every report promises, and return the page."""
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert "default-src 'none'" in text
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
    assert "url(" not in text
    assert "@import" not in text
    assert all(image.get("alt") for image in page.all("img"))
    charts = [attrs for attrs in page.all("svg") if attrs.get("aria-hidden") != "true"]
    assert all(attrs.get("aria-label") and attrs["role"] == "img" for attrs in charts)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(attrs.get("scope") for attrs in page.all("th"))
    return page


def run(*arguments: object, code: int = 0) -> str:
    return commands.run(*arguments, code=code).output


@pytest.fixture(scope="module")
def comparison():
    return session().explain("noise", picture(), methods=["sobel", "random"], target=1)


def test_a_comparison_shows_its_maps_its_ledgers_and_its_classes(comparison):
    page = read(render(report_of_comparisons([comparison], ["relprop report"])))
    assert f"Why {CLASSES[1]}?" in page.words  # and no script came of it
    assert [image["alt"].split(" for ")[0] for image in page.all("img")] == [
        "The picture noise, as the network sees it.",
        "Map of lrp",
        "Map of sobel",
        "Map of random",
    ]
    assert {image["class"] for image in page.all("img")} == {"pixelated"}
    result = comparison.results[0][1]
    assert f"{float(result.ledger.end[0]):.6f}" in page.words
    assert f"{100 * comparison.probability:.1f} %" in page.words
    assert "weights in tiny.pt" in page.words
    assert relprop.__version__ in page.words


def test_probabilities_that_a_model_returns_are_not_taken_for_scores():
    plain, ends = make(), nn.Sequential(make(), nn.Softmax(1)).eval()
    ours, theirs = (
        Session(LoadedModel(model, "tiny", PREPARE, CLASSES, "")).compare("noise", picture(), ["sobel"])
        for model in (plain, ends)
    )
    assert (theirs.probability, theirs.top) == (ours.probability, ours.top)


def test_a_method_that_fails_says_why_in_its_place():
    comparison = session().explain("noise", picture(), methods=["grad-cam:layer=nowhere"])
    assert comparison.maps[1].heatmap is None
    page = read(render(report_of_comparisons([comparison])))
    assert "no map" in page.words
    assert any("nowhere" in word for word in page.words)


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Two folders of `relprop explain`, with different rules, of the same pictures."""
    root = tmp_path_factory.mktemp("explained")
    images = pictures(root / "images", 2)
    for rules in ("paper", "released"):
        run("explain", images, *MODEL, "--composite", rules, "--target", 1, "--out", root / rules)
    return root


def test_results_of_one_picture_stand_side_by_side(explained, tmp_path):
    out = tmp_path / "deep" / "report.html"
    assert "report.html" in run("report", explained / "paper", explained / "released", "--out", out).replace("\n", "")
    page = read(out.read_text())
    captions = [word for word in page.words if word in ("original", "paper", "released")]
    assert captions == ["original", "paper", "released"] * 2
    x = Preprocess(size=8, resize=9, mean=(0.5,), std=(0.25,))(picture())[None]
    book = relprop.explain(make(), x, target=1, composite=relprop.released()).ledger
    assert f"{float(book.end[0]):.6f}" in page.words
    assert sum("the score is not conserved: rules" in word for word in page.words) >= 2
    assert any("relprop explain" in word or "explain" in word for word in page.words)


def test_one_result_alone_is_enough_and_its_numbers_are_those_saved(explained):
    report = report_of_results([explained / "paper" / "0_cat.000"])
    saved = relprop.Relevance.load(explained / "paper" / "0_cat.000")
    assert f"of a score of {float(saved.score[0]):.6f}; no leak: at most" in report.summary
    assert report.summary.endswith("the score is conserved: relevance sums to it.")
    assert report.title == "Why class 1?"
    read(render(report))


def test_saved_results_take_names_of_classes(explained, tmp_path):
    out, names = tmp_path / "report.html", tmp_path / "names.json"
    names.write_text('{"0": "puma", "1": "lynx"}')
    run("report", explained / "paper", "--classes", names, "--out", out)
    page = read(out.read_text())
    assert any("0_cat.000: lynx, " in word for word in page.words)
    assert {"lynx", "puma"} <= set(page.words)  # what the model says of each
    assert "class 1" not in out.read_text()
    names.write_text('["puma", "lynx", "lion"]')
    complaint = run("report", explained / "paper", "--classes", names, "--out", out, code=2)
    assert "3 class names were given, but the network has 2 outputs" in " ".join(complaint.split())


def test_what_cannot_be_read_is_said(explained, tmp_path):
    with pytest.raises(InputError, match="holds no saved result; `relprop explain --out images` makes one"):
        report_of_results([explained / "images"])
    bare = relprop.explain(make(), PREPARE(picture())[None]).save(tmp_path / "bare")
    with pytest.raises(InputError, match=r"without about\.json"):
        report_of_results([bare])
    two = relprop.explain(make(), PREPARE(picture())[None], target=[[0, 1]]).save(tmp_path / "two")
    annotate(two, picture(), {})
    with pytest.raises(InputError, match="holds 2 explanations"):
        report_of_results([two])
    with pytest.raises(RunError, match="is no run directory"):
        report_of_run(tmp_path)
    said = run("report", explained / "paper", explained / "images", "--out", tmp_path / "r.html", code=2)
    assert "give results, or images, not both" in said
    assert not (tmp_path / "r.html").exists()


def test_images_are_explained_and_bad_ones_left_out(tmp_path):
    images = pictures(tmp_path / "images", 2)
    (images / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "r.html"
    said = run("report", images, *MODEL, "--explainers", "sobel", "--split", "symmetric", "--out", out, code=1)
    assert "bad.png" in said
    page = read(out.read_text())
    assert page.words.count("original") == 2
    assert page.words.count("lrp:composite=paper:split=symmetric") == 2


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with curves, of a data set that can be taken away."""
    root = tmp_path_factory.mktemp("evaluated")
    data = f"folder:{pictures(root / 'data', 6)}"
    arguments = ["--data", data, "--explainers", "lrp,sobel", "--step", 16, "--batch-size", 2, "--curves"]
    run("evaluate", *MODEL, *arguments, "--out", root / "run")
    return root


def test_a_run_shows_scores_curves_controls_pictures_and_the_plan(evaluated, tmp_path):
    out = tmp_path / "run.html"
    run("report", evaluated / "run", "--pictures", 2, "--out", out, "--device", "cpu", "--trust")
    text = out.read_text()
    page = read(text)
    rows = open_run(evaluated / "run").rows().collect()
    of_lrp = rows.filter((rows["explainer"] == "lrp") & (rows["metric"] == "insertion"))["value"]
    error = of_lrp.std() / len(of_lrp) ** 0.5
    assert f"{of_lrp.mean():.4f} ± {error:.4f}" in page.words
    assert page.words.count("random (control)") == 3  # insertion, deletion, id
    curves = [attrs for attrs in page.all("svg") if attrs.get("class") == "chart"]
    assert [attrs["aria-label"].split(" ")[0] for attrs in curves] == ["Insertion", "Deletion"]
    assert len(page.all("polyline")) == 2 * 4
    assert page.words.count("original") == 2
    plan = json.loads(next(word for word in page.words if word.startswith("{")))
    assert plan == open_run(evaluated / "run").plan.to_json()
    assert str(evaluated) not in text.split("How this was made")[0]


def test_the_pictures_of_a_run_name_classes_as_the_data_set_or_the_user_does(evaluated, tmp_path):
    shown = {}
    (tmp_path / "names.txt").write_text("puma\nlynx\n")
    for chosen in ([], ["--classes", tmp_path / "names.txt"]):
        out = tmp_path / "run.html"
        run("report", evaluated / "run", "--pictures", 6, "--out", out, "--device", "cpu", "--trust", *chosen)
        shown[bool(chosen)] = {word for word in read(out.read_text()).words if ".png: " in word}
    assert all(": cat.000, " in word or ": dog.001, " in word for word in shown[False])
    assert all(": puma, " in word or ": lynx, " in word for word in shown[True])
    assert len(shown[False]) == len(shown[True]) == 6


def test_the_curve_of_the_report_is_the_mean_of_the_samples(evaluated):
    report = report_of_run(evaluated / "run", pictures=0)
    rows = open_run(evaluated / "run").rows().collect()
    curves = rows.filter((rows["explainer"] == "sobel") & (rows["metric"] == "deletion"))["curve"].to_list()
    means = [sum(steps) / len(steps) for steps in zip(*curves, strict=True)]
    (section,) = [section for section in report.sections if section.title == "Curves"]
    drawn = str(section.plots[1].svg)
    points = drawn[: drawn.index("<title>sobel")].rsplit('points="', 1)[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    span = heights[0] - heights[-1]
    assert len(heights) == len(means) == 5
    for height, mean in zip(heights, means, strict=True):  # on a line: the chart is linear in the score
        assert (heights[0] - height) / span == pytest.approx((mean - means[0]) / (means[-1] - means[0]), abs=0.02)


def forged(root, out, **changes):
    """Write a run with the rows of another, under a plan that differs: what somebody may hand around."""
    shutil.copytree(root, out)
    store = open_run(out)
    forged = replace(store, plan=replace(store.plan, **changes))
    rows = [[Row(**row) for row in store.rows([chunk]).collect().to_dicts()] for chunk in range(store.chunks)]
    for chunk, those in enumerate(rows):
        forged.write(chunk, those, {})
    document = json.loads((out / "manifest.json").read_text())
    document |= {"plan": forged.plan.to_json(), "digest": forged.plan.digest}
    (out / "manifest.json").write_text(json.dumps(document))


def test_without_model_or_data_the_rest_of_a_run_is_shown(evaluated, tmp_path):
    forged(evaluated / "run", tmp_path / "run", data=f"folder:{tmp_path / 'gone'}")
    report = report_of_run(tmp_path / "run", pictures=1)
    (section,) = [section for section in report.sections if section.title == "Pictures"]
    assert section.notes[0].startswith("There are no pictures here: ")
    assert "gone" in section.notes[0]
    read(render(report))


def test_a_run_folder_imports_nothing_unless_it_is_trusted(evaluated, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("import pathlib\npathlib.Path('ran').touch()\nmake = None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    forged(evaluated / "run", tmp_path / "run", model=ModelSpec("planted:make", trust=True))
    for trust, ran in ((False, False), (True, True)):
        report = report_of_run(tmp_path / "run", pictures=1, trust=trust)
        assert (tmp_path / "ran").exists() is ran
        (section,) = [section for section in report.sections if section.title == "Pictures"]
        assert ("--trust" in section.notes[0]) is not ran


def test_a_damaged_shard_is_left_out_and_said(evaluated, tmp_path):
    shutil.copytree(evaluated / "run", tmp_path / "run")
    path = tmp_path / "run" / "shards" / "00002.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    said = run("report", tmp_path / "run", "--pictures", 0, "--out", tmp_path / "r.html", code=1)
    assert "00002.parquet is truncated" in " ".join(said.split())
    page = (tmp_path / "r.html").read_text()
    assert "00002.parquet is truncated" in page
    assert "NOT FINISHED: 2 of 3 chunks" in page


def test_an_unfinished_run_says_so(evaluated, tmp_path):
    shutil.copytree(evaluated / "run", tmp_path / "run")
    (tmp_path / "run" / "shards" / "00002.parquet").unlink()
    report = report_of_run(tmp_path / "run", pictures=0)
    assert report.summary == "2 methods measured on 6 samples; NOT FINISHED: 2 of 3 chunks."


def test_one_report_is_of_one_run(evaluated, tmp_path):
    said = run("report", evaluated / "run", evaluated / "run", "--out", tmp_path / "r.html", code=2)
    assert "a report is of one run" in said
