"""The app in a real browser: upload, explain, change the class, look at the layers, download."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time

import numpy as np
import pytest
from web_tiny import LIMITS, Deep, encoded, served, tiny_setup

from relprop.web import Limits, make_app

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
pytest.importorskip("uvicorn", reason="browser tests need uvicorn")
BROWSER = os.environ.get("RELPROP_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address():
    """The app on a free port of this machine."""
    with served(make_app({"tiny": tiny_setup()}, LIMITS)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as made:
        opened = made.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextlib.contextmanager
def opened(browser, address, hash="", **options):
    """A page; the test fails if it complains on its console, or calls anybody else."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page, complaints = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    mine = (address, "data:", f"blob:{address}")
    page.on("request", lambda one: None if one.url.startswith(mine) else complaints.append(one.url))
    page.goto(address + hash)
    page.wait_for_selector("#strip img")
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as made:
        yield made


def wait_for(page, headline=""):
    """Wait for a result."""
    page.wait_for_function(
        "text => !document.getElementById('result').hidden && document.getElementById('status').hidden"
        " && document.getElementById('headline').textContent.startsWith(text)",
        arg=headline,
    )


def choose(page, number=1, headline=""):
    """Choose one of the photographs, and wait for its result."""
    page.click(f"#strip button >> nth={number}")
    wait_for(page, headline)


def downloaded(page, selector, path):
    with page.expect_download() as waited:
        page.click(selector)
    waited.value.save_as(path)
    return path


NPY = "[data-file='heatmap.npy']"


def test_upload_explain_change_the_class_and_the_layer_and_download(page, tmp_path):
    page.set_input_files("#file", {"name": "../../etc/a.png", "mimeType": "image/png", "buffer": encoded()})
    wait_for(page)
    assert page.locator("#verdict .good").count() == page.locator("#verdict span").count() == 2
    assert "The score is conserved" in page.inner_text("#verdict")
    assert page.get_attribute("#strip button >> nth=0", "title").endswith("a.png")
    assert page.get_attribute("#strip button >> nth=0", "aria-pressed") == "true"
    assert page.locator(".map h3").all_inner_texts() == [
        "The paper's map\nrelevance of each pixel",
        "lrp-cuts\nrelevance of late layers and of pixels, combined",
    ]
    first = page.get_attribute(".heat >> nth=0", "src")
    names = page.locator("#top .class span:first-child").all_inner_texts()
    assert sorted(names) == ["<b>cat</b>", "ant", "bee"]  # text, not markup
    other = names[-1]
    page.click("#top li:last-child .class")
    wait_for(page, other)
    assert page.get_attribute(".heat >> nth=0", "src") != first
    assert page.get_attribute("#top li:last-child .class", "aria-current") == "true"
    page.click("text=Layer by layer")
    assert page.get_attribute("#depth", "max") == "3"
    page.focus("#depth")
    page.keyboard.press("End")
    assert (page.inner_text("#layer-name"), page.inner_text("#layer-size")) == ("pool", "4 x 8 x 8")
    heatmap = np.load(downloaded(page, NPY, tmp_path / "h.npy"))
    assert heatmap.shape == (16, 16)
    assert float(page.inner_text("#layer-sum")) == pytest.approx(heatmap.astype(np.float64).sum(), abs=1e-5)
    path = downloaded(page, "[data-file='report.html']", tmp_path / "report.html")
    report = page.context.browser.new_page()
    report.goto(path.as_uri())
    assert report.inner_text("h1") == f"Why {other}?"
    report.close()


def shares(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"([-\d.e]+) %", text)]


def test_a_region_is_read_by_a_drag_by_a_click_and_by_keys_and_is_the_sum_of_the_file(page, tmp_path):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": encoded()})
    wait_for(page)
    maps = [
        np.load(downloaded(page, f"[data-file='{name}']", tmp_path / name)).astype(np.float64)
        for name in ("heatmap.npy", "lrp-cuts.npy")
    ]
    score = float(re.search(r"of ([\d.]+)\.", page.inner_text("#verdict"))[1])

    def expect(x0: int, y0: int, x1: int, y1: int) -> None:
        values = page.evaluate(
            "['left-edge','top-edge','region-width','region-height'].map(i => +document.getElementById(i).value)"
        )
        assert values == [x0, y0, x1 - x0, y1 - y0]
        expected = [100 * one[y0:y1, x0:x1].sum() / score for one in maps]
        *held, area = shares(page.inner_text("#held"))
        assert held == pytest.approx(expected, rel=6e-3)
        assert area == pytest.approx(100 * (x1 - x0) * (y1 - y0) / 256, abs=0.06)
        assert [shares(text)[0] for text in page.locator(".box b").all_inner_texts()] == held
        assert page.inner_text("#python code") == f"result.sum(({x0}, {y0}, {x1}, {y1}))"

    def at(x: float, y: float) -> tuple[float, float]:
        box = page.locator(".stage >> nth=1").bounding_box()
        return box["x"] + box["width"] * x / 16, box["y"] + box["height"] * y / 16

    page.locator(".stage >> nth=1").scroll_into_view_if_needed()
    page.mouse.move(*at(2.5, 3.5))
    page.mouse.down()
    page.mouse.move(*at(9.5, 12.5), steps=3)
    page.mouse.up()
    expect(2, 3, 10, 13)
    assert page.url.endswith("&region=2,3,10,13")
    page.mouse.move(*at(9.5, 5.5))
    here = maps[0][4:7, 8:11].sum(), maps[1][4:7, 8:11].sum()
    assert page.inner_text("#here").startswith("3 x 3 pixels around column 9, row 5: ")
    assert shares(page.inner_text("#here")) == pytest.approx([100 * one / score for one in here], rel=6e-3)
    assert page.locator(".point").count() == 2
    assert page.locator(".point").nth(0).is_visible()
    page.mouse.click(*at(8, 8))
    expect(6, 6, 10, 10)
    page.focus("#left-edge")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("99")
    page.keyboard.press("Enter")
    expect(7, 6, 16, 10)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.inner_text("#held") == ""
    assert "region" not in page.url
    assert page.evaluate("document.activeElement.id") == "left-edge"


def test_the_slider_fades_from_the_photograph_to_the_maps(page):
    choose(page)
    opacity = "() => getComputedStyle(document.querySelectorAll('.heat')[1]).opacity"
    assert page.evaluate(opacity) == "1"
    page.focus("#fade")
    page.keyboard.press("Home")
    assert page.evaluate(opacity) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(opacity) == "0.01"
    assert page.get_attribute("#fade", "aria-valuetext") == "1 % map"


def test_a_contrast_takes_two_clicks_and_its_address_asks_it_again(browser, page, address):
    choose(page)
    names = page.locator("#top .class span:first-child").all_inner_texts()
    page.click(f"#top li:has-text('{names[2]}') .class")  # the first
    wait_for(page, names[2])
    page.click(f"#top li:has-text('{names[1]}') .versus")  # and the second
    wait_for(page, f"{names[2]} rather than {names[1]}: ")
    assert page.get_attribute(f"#top li:has-text('{names[1]}') .versus", "aria-pressed") == "true"
    page.fill("#left-edge", "3")
    page.press("#left-edge", "Tab")
    page.click("text=Rules and drawing")
    page.select_option("#smooth", "4")
    wait_for(page, f"{names[2]} rather than {names[1]}: ")
    headline, held = page.inner_text("#headline"), page.inner_text("#held")
    assert page.text_content("#news") == headline  # what a screen reader says
    asked = page.get_attribute("#link", "href")
    assert page.url == address + asked
    assert "composite" not in asked  # what is not chosen is not in it
    with opened(browser, address, asked) as other:
        wait_for(other, headline)
        assert other.inner_text("#held") == held != ""
        assert other.input_value("#smooth") == "4"
        assert other.get_attribute("#strip button >> nth=1", "aria-pressed") == "true"
    for _ in range(2):
        page.go_back()
    wait_for(page, f"{names[2]}, ")
    assert page.input_value("#against") == ""
    page.go_back()
    wait_for(page, f"{names[0]}, ")


def test_files_can_be_dropped_anywhere_and_pasted(page):
    file = """async ([name, kind]) => {
        const data = new DataTransfer();
        const bytes = await (await fetch('api/images/rocket.jpg')).arrayBuffer();
        data.items.add(new File([bytes], name, {type: 'image/jpeg'}));
        const event = kind === 'paste'
            ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
            : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
        document.querySelector('h1').dispatchEvent(event);
    }"""
    page.evaluate(file, ["a.jpg", "dragover"])
    assert page.evaluate("document.body.className") == "over"
    page.evaluate(file, ["a.jpg", "drop"])
    wait_for(page)
    assert page.evaluate("document.body.className") == ""
    page.evaluate(file, ["b.jpg", "paste"])
    page.wait_for_selector("#strip button[title='b.jpg'][aria-pressed=true]")
    wait_for(page)
    titles = [one.get_attribute("title") for one in page.locator("#strip button").all()]
    assert titles[:2] == ["b.jpg", "a.jpg"]


def test_a_folder_can_be_dropped(page, tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("one.png", "inner/two.png"):
        (tmp_path / name).write_bytes(encoded())
    (tmp_path / "notes.txt").write_text("no image")
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    wait_for(page)
    titles = {one.get_attribute("title") for one in page.locator("#strip button").all()}
    assert titles == {"one.png", "two.png", "chelsea", "coffee", "rocket"}


def test_cancel_stops_the_work_and_says_so(browser):
    setup = tiny_setup(Deep)
    app, model = make_app({"slow": setup}, Limits(unasked_seconds=600)), setup.loaded.model
    with served(app) as port, opened(browser, f"http://127.0.0.1:{port}/") as page:
        with page.expect_request("**/api/jobs/*") as asked:
            page.click("#strip button >> nth=1")
        job = app.state.jobs.find(re.findall(r"jobs/([\w-]+)", asked.value.url)[0])
        page.wait_for_selector("text=propagating relevance, 2 of 4")
        page.click("#cancel")
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == "this explanation was cancelled"
        assert page.evaluate("document.activeElement.id") == "error"
        assert page.is_hidden("#status")
        end = time.monotonic() + 30
        while not job.ended:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1.5)  # the layer that is being computed takes a second
        calls = model.calls
        time.sleep(2.5)
        assert model.calls == calls < len(model.layers)


QUICK = (("light", 390), ("dark", 1440))  # both schemes, and the layouts of a phone and of a wide screen


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        pytest.param(scheme, width, marks=() if (scheme, width) in QUICK else pytest.mark.slow)
        for scheme in ("light", "dark")
        for width in (390, 768, 1440)
    ],
)
def test_axe_finds_nothing(browser, address, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def check(page) -> None:
        found = axe.run(page)
        assert len(found.response["passes"]) > 15
        assert found.violations_count == 0, found.generate_report()

    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with opened(browser, address, **options) as page:
        check(page)
        choose(page, 2)
        page.click("#top .versus >> nth=0")
        wait_for(page)
        page.fill("#left-edge", "3")
        page.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
        page.check("input[value=grad-cam]")
        wait_for(page)
        page.wait_for_selector("#methods img >> nth=2")
        check(page)
        page.fill("#target", "nonsense")
        page.click("#go")
        page.wait_for_selector("#error:not([hidden])")
        check(page)


def test_everything_can_be_reached_by_keys_in_the_order_of_the_page(page):
    choose(page)
    page.focus("#file")
    seen = []
    for _ in range(60):
        seen.append(
            page.evaluate(
                "(({id, className, textContent}) => id || className || textContent.trim())(document.activeElement)"
            )
        )
        if seen[-1] == "Rules and drawing":
            break
        page.keyboard.press("Tab")
    named = [
        name for name in seen if name in {"file", "fade", "left-edge", "no-region", "link", "class", "versus", "go"}
    ]
    assert named == ["file", "fade", "left-edge", "link", "class", "class", "versus", "class", "versus", "go"]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "composite"


@pytest.mark.parametrize("width", [390, 768])
def test_narrow_windows_show_the_result_above_the_rules(browser, address, width):
    with opened(browser, address, viewport={"width": width, "height": 800}) as page:
        choose(page)
        top = {name: page.locator(name).bounding_box()["y"] for name in (".picture", "#maps", ".question", ".rules")}
        assert sorted(top, key=top.get) == list(top)
        assert -1 < page.locator("#headline").bounding_box()["y"] < 200  # scrolled to


def test_a_bad_file_gives_a_message_and_the_page_goes_on(page):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#error:not([hidden])")
    assert "not a picture that can be read" in page.inner_text("#error")
    huge = b"x" * (LIMITS.file_bytes + 1)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": huge})
    page.wait_for_function("document.getElementById('error').textContent.includes('at most 0.2 MB')")
    choose(page)
    assert page.is_hidden("#error")
    page.fill("#target", "nonsense")
    page.click("#go")
    page.wait_for_function("document.getElementById('error').textContent.includes('no class is called')")


def test_an_error_takes_the_focus_and_dims_the_old_result(page):
    choose(page)
    page.set_viewport_size({"width": 390, "height": 800})
    page.fill("#target", "nonsense")
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "error"
    assert 0 <= page.locator("#error").bounding_box()["y"] < 800
    assert "stale" in page.get_attribute("#result", "class")


def test_a_page_that_is_left_stops_its_explanation(browser):
    app = make_app({"slow": tiny_setup(Deep)}, Limits(unasked_seconds=600))
    with served(app) as port, contextlib.closing(browser.new_context()) as context:
        opened = context.new_page()
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.wait_for_selector("#strip img", timeout=PATIENCE)
        with opened.expect_request("**/api/jobs/*", timeout=PATIENCE) as asked:
            opened.click("#strip button >> nth=1")
        job = app.state.jobs.find(re.findall(r"jobs/([\w-]+)", asked.value.url)[0])
        assert not job.ended
        opened.goto("about:blank")
        end = time.monotonic() + 30  # the explanation takes a minute and more
        while not job.ended:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert (job.state, job.error) == ("cancelled", "this explanation was cancelled")


def test_explain_lies_within_the_first_screen(page):
    box = page.locator("#go").bounding_box()
    assert box["y"] + box["height"] <= 900


def test_a_sum_that_is_not_the_score_is_never_green(page):
    choose(page)
    page.click("text=Rules and drawing")
    page.select_option("#composite", "gamma")
    page.wait_for_selector("#verdict .bad")
    assert "The score is not conserved: rules " in page.inner_text("#verdict .bad")
    assert page.locator("#verdict .good").all_inner_texts()[0].startswith("No leak: at most ")


def test_a_contrast_and_what_is_drawn_smoothed_say_so(page):
    choose(page)
    assert "drawn after a Gaussian of 1 px, files and sums are of the raw map" in page.text_content(".note >> nth=0")
    page.fill("#target", "0")
    page.fill("#against", "1")
    page.click("#go")
    wait_for(page, "ant rather than bee: ")


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    choose(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    missing = page.evaluate("[...document.images].filter(i => i.offsetParent && !(i.alt && i.naturalWidth)).length")
    assert missing == 0
    fields = "[...document.querySelectorAll('select, input:not([type=hidden])')]"
    assert page.evaluate(f"{fields}.filter(e => !e.labels.length).map(e => e.id)") == []
