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


@pytest.fixture
def page(browser, address):
    """The app's page; the test fails if the page complains on its console, or calls anybody else."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    opened, complaints = context.new_page(), []
    opened.set_default_timeout(PATIENCE)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None
    )
    opened.on("request", lambda one: None if one.url.startswith((address, "data:")) else complaints.append(one.url))
    opened.goto(address)
    opened.wait_for_selector("#samples img")
    yield opened
    context.close()
    assert complaints == []


def wait_for(page, headline):
    page.wait_for_function(
        "text => !document.getElementById('result').hidden && document.getElementById('status').hidden"
        " && document.getElementById('headline').textContent.startsWith(text)",
        arg=headline,
    )


def test_upload_explain_change_the_class_and_the_layer_and_download(page, tmp_path):
    page.set_input_files("#file", {"name": "../../etc/a.png", "mimeType": "image/png", "buffer": encoded()})
    page.wait_for_selector("#result:not([hidden])")
    assert page.locator("#verdict .good").count() == page.locator("#verdict span").count() == 2
    assert "The score is conserved" in page.inner_text("#verdict")
    assert page.inner_text("#filename").endswith("a.png")
    page.wait_for_function("document.getElementById('preview').naturalWidth > 0")
    first = page.get_attribute("#overlay", "src")
    names = page.locator("#top li button span:first-child").all_inner_texts()
    assert sorted(names) == ["<b>cat</b>", "ant", "bee"]  # text, not markup
    other = names[-1]
    page.click("#top li:last-child button")
    wait_for(page, other)
    assert page.get_attribute("#overlay", "src") != first
    assert page.get_attribute("#top li:last-child button", "aria-current") == "true"
    assert page.get_attribute("#depth", "max") == "3"
    page.focus("#depth")
    page.keyboard.press("End")
    assert (page.inner_text("#layer-name"), page.inner_text("#layer-size")) == ("pool", "4 x 8 x 8")
    with page.expect_download() as waited:
        page.click("#npy")
    waited.value.save_as(tmp_path / "h.npy")
    heatmap = np.load(tmp_path / "h.npy")
    assert heatmap.shape == (16, 16)
    assert float(page.inner_text("#layer-sum")) == pytest.approx(heatmap.astype(np.float64).sum(), abs=1e-5)
    with page.expect_download() as waited:
        page.click("#html")
    waited.value.save_as(tmp_path / "report.html")
    report = page.context.new_page()
    report.goto((tmp_path / "report.html").as_uri())
    assert report.inner_text("h1") == f"Why {other}?"


def test_a_bad_file_gives_a_message_and_the_page_goes_on(page):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#error:not([hidden])")
    assert "not a picture that can be read" in page.inner_text("#error")
    huge = b"x" * (LIMITS.file_bytes + 1)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": huge})
    page.wait_for_function("document.getElementById('error').textContent.includes('at most 0.2 MB')")
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#result:not([hidden])")
    assert page.is_hidden("#error")
    page.fill("#target", "nonsense")
    page.click("#go")
    page.wait_for_function("document.getElementById('error').textContent.includes('no class is called')")


def test_an_error_stands_beside_the_button_takes_the_focus_and_dims_the_old_result(page):
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#result:not([hidden])")
    page.set_viewport_size({"width": 390, "height": 800})
    page.fill("#target", "nonsense")
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "error"
    button, error = page.locator("#go").bounding_box(), page.locator("#error").bounding_box()
    assert 0 <= error["y"] - (button["y"] + button["height"]) < 40
    assert 0 <= error["y"] < 800
    assert "stale" in page.get_attribute("#result", "class")


def test_a_page_that_is_left_stops_its_explanation(browser):
    app = make_app({"slow": tiny_setup(Deep)}, Limits(unasked_seconds=600))
    with served(app) as port, contextlib.closing(browser.new_context()) as context:
        opened = context.new_page()
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.wait_for_selector("#samples img", timeout=PATIENCE)
        with opened.expect_request("**/api/jobs/*", timeout=PATIENCE) as asked:
            opened.click("#samples button >> nth=1")
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
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#result:not([hidden])")
    page.select_option("#composite", "gamma")
    page.wait_for_selector("#verdict .bad")
    assert "The score is not conserved: rules " in page.inner_text("#verdict .bad")
    assert page.locator("#verdict .good").all_inner_texts()[0].startswith("No leak: at most ")


def test_a_contrast_and_what_is_drawn_smoothed_say_so(page):
    page.click("#samples button >> nth=1")
    page.wait_for_selector("#result:not([hidden])")
    assert "drawn after a Gaussian of 1 px, the files hold the raw map" in page.inner_text("#note")
    page.fill("#target", "0")
    page.fill("#against", "1")
    page.click("#go")
    wait_for(page, "ant rather than bee: ")


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.click("#samples button >> nth=2")
    page.wait_for_selector("#result:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    missing = page.evaluate("[...document.images].filter(i => i.offsetParent && !(i.alt && i.naturalWidth)).length")
    assert missing == 0
    unnamed = "[...document.querySelectorAll('select, input')].filter(e => !(e.labels.length)).map(e => e.id)"
    assert page.evaluate(unnamed) == []
