"""`result.show()`: its state in Python, the figure without anywidget, and its page in a real browser."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import relprop
from relprop.core.result.relevance import Relevance
from relprop.errors import InputError, UsageError
from relprop.viz import widget
from relprop.viz.widget import PIXELS, Shown

SIZE = (24, 32)  # rows, columns: not square, so that the two cannot be mixed up unnoticed


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def result(photograph) -> Relevance:
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255
    return relprop.LRP(Net().eval(), keep=["stem", "body"])(x)


def show(result, *arguments, **options):
    pytest.importorskip("anywidget", reason="widgets need the extra notebook")
    return result.show(*arguments, **options)


def test_a_widget_holds_the_map_of_each_kept_layer_and_each_has_the_same_total(result, photograph):
    shown = show(result, photograph, classes=["ant", "bee", "cat", "dog"])
    assert shown.names == [PIXELS, "stem", "body"]
    assert shown.title.split(",")[0] in ("ant", "bee", "cat", "dog")
    maps = np.frombuffer(shown.maps, "<f8").reshape(3, *SIZE)
    assert (maps[0] == result.heatmap[0].double().numpy()).all()
    assert maps[1] == pytest.approx(result.combine({"stem": 1})[0].numpy())
    assert maps.sum((1, 2)) == pytest.approx(result.score.item(), rel=1e-5)
    for png in (shown.photograph, *shown.overlays):
        assert Image.open(io.BytesIO(png)).size == SIZE[::-1]
    assert (np.asarray(Image.open(io.BytesIO(shown.photograph))) == photograph).all()


def test_the_map_at_the_pixels_is_drawn_smoothed_and_says_so_but_summed_as_it_is(result, photograph):
    raw, smooth = show(result, photograph, smooth=0), show(result, photograph)
    assert raw.maps == smooth.maps
    assert raw.overlays[0] != smooth.overlays[0]
    assert raw.overlays[1:] == smooth.overlays[1:]
    assert smooth.notes[0].endswith("; drawn after a Gaussian of 1 px")
    assert not any("Gaussian" in note for note in (*raw.notes, *smooth.notes[1:]))


def test_what_the_box_holds_is_the_sum_of_the_result(result, photograph):
    shown = show(result, photograph)
    assert shown.share == pytest.approx(1, rel=1e-5)
    shown.box = [4, 2, 20, 11]
    assert shown.relevance == result.sum((4, 2, 20, 11)).item()
    assert shown.share == shown.relevance / result.score.item()
    shown.layer = 2
    assert shown.relevance == pytest.approx(result.combine({"body": 1})[0, 2:11, 4:20].sum().item(), rel=1e-6)
    with pytest.raises(UsageError, match="x1 <= 32 and 0 <= y0 < y1 <= 24"):
        shown.box = [0, 0, 33, 24]
    with pytest.raises(InputError, match="no layer 3: they are numbered from 0 to 2"):
        shown.layer = 3


def test_one_of_several_classes_is_chosen_by_index(photograph):
    x = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255
    both = relprop.LRP(Net().eval(), keep=["body"])(x, target=[[1, 3]])
    shown = show(both, index=(0, 1))
    assert shown.title.startswith("class 3, ")
    assert shown.relevance == pytest.approx(both.score[0, 1].item(), rel=1e-5)
    assert shown.photograph == b""
    with pytest.raises(InputError, match="explained for 2 classes; choose one"):
        both.show()


def test_what_cannot_be_shown_is_refused(result):
    with pytest.raises(InputError, match="the picture is 8 x 8 and the heatmap 24 x 32"):
        result.show(np.zeros((8, 8)))
    flat = Relevance(torch.ones(2, 5), torch.tensor([0, 1]), torch.ones(2), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"only maps of images can be shown, not relevance of shape \(2, 5\)"):
        flat.show()


def test_a_page_that_runs_no_widget_gets_the_figure(result, photograph):
    data, _ = show(result, photograph)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"]))).format == "JPEG"


@pytest.mark.parametrize("over", [True, False])
def test_without_anywidget_there_is_a_figure_that_says_what_to_install(over, result, photograph, monkeypatch):
    widget._widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    shown = result.show(photograph if over else None)
    text = shown._repr_html_()
    drawn = re.search(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert drawn is not None
    assert Image.open(io.BytesIO(base64.b64decode(drawn[1]))).width > 300
    assert re.search(r"anywidget is not installed; it comes with: pip install .*\[notebook\]", text)
    assert "<script" not in text
    widget._widget_class.cache_clear()


# ---- the page, with a model that holds traits as anywidget's does

BROWSER = os.environ.get("RELPROP_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MODEL = """
async ([source, state]) => {
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  for (const name of ["maps", "photograph"]) state[name] = bytes(state[name]);
  state.overlays = state.overlays.map(bytes);
  const heard = [], url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  window.saved = [];
  window.model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => saved.push({ fade: state.fade, layer: state.layer, box: [...state.box] }),
    on: (names, call) => heard.push(call),
    fromPython: (name, value) => { state[name] = value; heard.forEach((call) => call()); },
  };
  (await import(url)).default.render({ model, el: document.getElementById("here") });
}
"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    if BROWSER is None:
        pytest.skip("no Chromium here; apt-get install chromium")
    with playwright.sync_playwright() as made:
        opened = made.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, result, photograph):
    """The widget of `result` in a page, and complaints of the page fail the test."""
    complaints = []
    page = browser.new_page(viewport={"width": 600, "height": 900})
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def render(over=photograph):
        maps = {PIXELS: result.heatmap[0].double()}
        if over is not None:
            maps |= {name: result.combine({name: 1.0})[0].double() for name in ("stem", "body")}
        state = Shown("class 1, <b>score</b>", result.score.item(), maps, over).state()
        state |= {name: base64.b64encode(state[name]).decode() for name in ("maps", "photograph")}
        state["overlays"] = [base64.b64encode(png).decode() for png in state["overlays"]]
        source = Path(widget.__file__).with_suffix(".js").read_text(encoding="utf-8")
        page.set_content('<body><div id="here"></div></body>')
        page.evaluate(MODEL, [source, state | {"fade": 0.85, "layer": 0}])
        page.wait_for_function("[...document.images].every((image) => image.naturalWidth === 32)")
        return page

    yield render
    page.close()
    assert complaints == []


def held(page) -> tuple[float, float]:
    """(share of the score, relevance) that the page says."""
    said = re.fullmatch(
        r"The box holds (-?[\d.]+) % of the score, (-?[\d.e-]+) of [\d.e-]+, on [\d.]+ % of the image\.",
        page.inner_text(".sum"),
    )
    assert said is not None, page.inner_text(".sum")
    return float(said[1]), float(said[2])


def expected(result, box, layer=PIXELS) -> tuple[float, float]:
    x0, y0, x1, y1 = box
    heatmap = result.heatmap if layer == PIXELS else result.combine({layer: 1.0})
    total = heatmap[0, y0:y1, x0:x1].double().sum().item()
    return pytest.approx(100 * total / result.score.item(), abs=0.0501), pytest.approx(total, rel=1e-3)


def test_a_box_is_dragged_and_its_share_is_that_of_the_relevance(opened, result):
    page = opened()
    assert held(page) == expected(result, (0, 0, 32, 24))
    frame = page.locator(".stage").bounding_box()
    pixel = frame["width"] / 32
    # from (20.5, 10.5) up and to the left to (5.5, 3.5): the pixels touched are 5..20 and 3..10
    page.mouse.move(frame["x"] + 20.5 * pixel, frame["y"] + 10.5 * pixel)
    page.mouse.down()
    page.mouse.move(frame["x"] + 9 * pixel, frame["y"] + 9 * pixel)
    page.mouse.move(frame["x"] + 5.5 * pixel, frame["y"] + 3.5 * pixel)
    assert page.evaluate("saved.length") == 0  # Python hears of it when it is done
    assert held(page) == expected(result, (5, 3, 21, 11))
    page.mouse.up()
    assert page.evaluate("saved") == [{"fade": 0.85, "layer": 0, "box": [5, 3, 21, 11]}]
    drawn = page.locator(".box").bounding_box()
    assert drawn["x"] - frame["x"] == pytest.approx(5 * pixel, abs=1)
    assert drawn["height"] == pytest.approx(8 * pixel, abs=1)
    page.mouse.move(frame["x"] + 2 * pixel, frame["y"] + 2 * pixel)  # without a button nothing moves
    assert page.evaluate("model.get('box')") == [5, 3, 21, 11]


def test_a_box_that_leaves_the_image_ends_at_its_edge(opened, result):
    page = opened()
    frame = page.locator(".stage").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.mouse.down()
    page.mouse.move(frame["x"] + 2 * frame["width"], frame["y"] + 2 * frame["height"])
    page.mouse.up()
    assert page.evaluate("model.get('box')") == [16, 12, 32, 24]
    assert held(page) == expected(result, (16, 12, 32, 24))


def test_all_of_it_works_from_the_keyboard(opened, result):
    page = opened()
    for place, (name, value) in enumerate((("left", 4), ("top", 6), ("right", 19), ("bottom", 20))):
        page.get_by_label(name).fill(str(value))
        page.keyboard.press("Tab")
        assert page.evaluate("model.get('box')")[place] == value
    assert held(page) == expected(result, (4, 6, 19, 20))
    page.get_by_label("left").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    assert held(page) == expected(result, (5, 6, 19, 20))
    page.get_by_label("left").fill("30")  # beyond the right edge, which makes way
    page.keyboard.press("Tab")
    assert page.evaluate("model.get('box')") == [30, 6, 31, 20]
    page.get_by_label("layer").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".name") == "stem"
    assert page.get_by_label("layer").get_attribute("aria-valuetext") == "stem"
    assert page.evaluate("saved.at(-1).layer") == 1
    page.get_by_label("fade").focus()
    page.keyboard.press("Home")
    assert page.evaluate("[model.get('fade'), document.querySelector('.map').style.opacity]") == [0, "0"]


def test_the_layer_changes_the_map_and_the_sums(opened, result):
    page = opened()
    first = page.get_attribute(".map", "src")
    page.evaluate("model.fromPython('layer', 2); model.fromPython('box', [8, 8, 16, 16])")
    assert page.get_attribute(".map", "src") != first
    assert page.get_attribute(".map", "alt") == "relevance: body"
    assert held(page) == expected(result, (8, 8, 16, 16), "body")
    assert page.inner_text(".title") == "class 1, <b>score</b>"  # text, not markup


def test_one_map_alone_has_neither_slider(opened, result):
    page = opened(None)
    assert not page.get_by_label("fade").is_visible()
    assert not page.get_by_label("layer").is_visible()
    assert page.locator("img").count() == 1
    assert page.evaluate("document.querySelector('.stage').getBoundingClientRect().height") > 100
    assert held(page) == expected(result, (0, 0, 32, 24))
