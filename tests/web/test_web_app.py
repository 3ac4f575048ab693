"""The app through its routes: what it computes, what it refuses, what it keeps."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from web_tiny import CLASSES, LIMITS, PREPARE, encoded, finished, image, tiny_setup

import relprop
from relprop import demo
from relprop.explainers.cuts import LrpCuts
from relprop.web import Limits, make_app
from relprop.web.security import HEADERS


def test_the_page_and_its_parts_are_there(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "<title>relprop</title>" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    for path, kind in (("/app.css", "text/css"), ("/app.js", "text/javascript"), ("/maps.js", "text/javascript")):
        got = client.get(path)
        assert got.headers["content-type"].startswith(kind)
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    with Image.open(io.BytesIO(client.get("/api/images/chelsea.jpg").content)) as shown:
        assert max(shown.size) == 240


def test_an_upload_is_explained_as_the_library_explains_it(client, setup):
    got = client.post("/api/images", content=encoded()).json()
    assert (got["width"], got["height"]) == (24, 20)
    status = finished(client, client.post("/api/jobs", json={"image": got["id"], "target": 1}).json()["id"])
    expected = relprop.explain(setup.loaded.model, PREPARE(image())[None], target=1)
    found = status["result"]
    assert found["class"] == "bee"
    assert found["score"] == pytest.approx(float(expected.score[0]), rel=1e-6)
    assert found["sum"] == pytest.approx(found["score"], rel=1e-5)
    assert [one["name"] for one in found["top"]] == [CLASSES[k] for k in expected.logits[0].argsort(descending=True)]
    files = f"/api/jobs/{status['id']}"
    heatmap = np.load(io.BytesIO(client.get(f"{files}/heatmap.npy").content))
    assert heatmap == pytest.approx(expected.heatmap[0].numpy(), abs=1e-7)
    arrays = np.load(io.BytesIO(client.get(f"{files}/relevance.npz").content))
    assert arrays["relevance"].shape == (3, 16, 16)
    assert arrays["relevance"].sum(0) == pytest.approx(heatmap, abs=1e-6)
    with Image.open(io.BytesIO(client.get(f"{files}/relevance.png").content)) as drawn:
        assert drawn.width > 500
    report = client.get(f"{files}/report.html")
    assert report.headers["content-disposition"] == 'attachment; filename="relprop-image-report.html"'
    assert "<h1>Why bee?</h1>" in report.text
    assert "/home/somebody" not in report.text


@pytest.mark.parametrize("against", [None, 1])
def test_both_maps_can_be_downloaded_and_hold_the_score(client, setup, explain, against):
    status = explain(target=2, against=against, smooth=2)
    found, files = status["result"], [one["file"] for one in status["result"]["maps"]]
    maps = [np.load(io.BytesIO(client.get(f"/api/jobs/{status['id']}/{file}").content)) for file in files]
    target = [2] if against is None else relprop.targets.Contrast(2, 1)
    x = PREPARE(demo.photograph())[None]
    assert maps[0] == pytest.approx(relprop.explain(setup.loaded.model, x, target=target).heatmap[0].numpy(), abs=1e-7)
    assert maps[1] == pytest.approx(LrpCuts()(setup.loaded.model, x, target)[0].numpy(), abs=1e-7)
    assert found["size"] == [16, 16]
    for one in maps:
        assert one.sum(dtype=float) == pytest.approx(found["score"], abs=1e-6)


def test_a_method_that_fails_says_so_in_the_place_of_its_map(client, explain, monkeypatch):
    def fails(*given):
        raise relprop.errors.UnsupportedOpError("no rule for 'my_op'")

    monkeypatch.setattr(LrpCuts, "__call__", fails)
    status = explain()
    first, second = status["result"]["maps"]
    assert (first["error"], second["error"]) == ("", "no rule for 'my_op'")
    assert "overlay" not in second
    got = client.get(f"/api/jobs/{status['id']}/lrp-cuts.npy")
    assert (got.status_code, got.json()["error"]) == (404, "lrp-cuts has no map here: no rule for 'my_op'")
    assert client.get(f"/api/jobs/{status['id']}/relevance.png").status_code == 200


def test_images_of_a_folder_can_be_chosen_by_name_and_by_nothing_else(setup, tmp_path):
    """Names are those of a table; a file that has gone, or is none, gives a message without its folder."""
    known = {"my cat": tmp_path / "my cat.png", "gone": tmp_path / "gone.png", "text": tmp_path / "text.png"}
    image().save(known["my cat"])
    known["text"].write_text("no image")
    with TestClient(make_app({"tiny": setup}, LIMITS, hosts=None, images=known)) as client:
        assert client.get("/api/choices").json()["images"] == ["my cat", "gone", "text"]
        assert client.get("/api/images/my%20cat.jpg").headers["content-type"] == "image/jpeg"
        status = finished(client, client.post("/api/jobs", json={"image": "sample:my cat"}).json()["id"])
        assert status["result"]["name"] == "my cat"
        for name, message in (("gone", "there is no file 'gone.png'"), ("text", "the picture is not a picture")):
            assert client.get(f"/api/images/{name}.jpg").json()["error"].startswith(message)
            job = client.post("/api/jobs", json={"image": f"sample:{name}"}).json()["id"]
            assert finished(client, job)["error"].startswith(message)
        for name in ("chelsea", "../my cat", str(known["my cat"])):
            assert client.post("/api/jobs", json={"image": f"sample:{name}"}).status_code == 404
        assert client.get("/api/images/..%2Fmy%20cat.jpg").status_code == 404


def test_each_layer_map_sums_to_the_score(explain):
    found = explain(target=0)["result"]
    assert [layer["name"] for layer in found["layers"]] == ["input", "relu", "relu@1", "pool"]
    assert [layer["size"] for layer in found["layers"]] == ["3 x 16 x 16", "4 x 16 x 16", "4 x 16 x 16", "4 x 8 x 8"]
    for layer in found["layers"]:
        assert layer["sum"] == pytest.approx(found["score"], rel=1e-5)
    table = found["conservation"]
    assert table["start"] == pytest.approx(found["score"])
    assert table["end"] == pytest.approx(found["score"], rel=1e-5)


def test_rules_levels_and_baselines_are_those_of_the_request(explain):
    ratio, half = explain()["result"], explain(split="symmetric", identity=False)["result"]
    assert dict(ratio["facts"])["composite"] == "paper"
    assert dict(half["facts"])["composite"] == "paper:split=symmetric:identity=false"
    assert ratio["maps"][0]["overlay"] != half["maps"][0]["overlay"]
    assert ratio["maps"][1] == half["maps"][1]
    assert [one["title"] for one in ratio["maps"]] == ["The paper's map", "lrp-cuts"]
    assert half["maps"][0]["title"] == "LRP by paper:split=symmetric:identity=false"
    assert [one["scale"]["note"][:8] for one in explain(levels=4)["result"]["maps"]] == ["5 levels"] * 2
    pytest.importorskip("captum")
    panels = explain(baselines=["input-x-gradient", "grad-cam"])["result"]["methods"]["panels"]
    assert [panel["name"] for panel in panels] == [
        "lrp", "lrp-cuts", "input-x-gradient", "grad-cam",
    ]  # fmt: skip
    assert panels[2]["image"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "one JSON object"),
        ({"image": 3}, "choose an image"),
        ({"image": "sample:chelsea", "model": "../../etc/passwd"}, "model must be one of tiny"),
        ({"image": "sample:chelsea", "composite": "epsilon:1e9"}, "composite must be one of paper, released"),
        ({"image": "sample:chelsea", "composite": "epsilon", "split": "ratio"}, "has no option 'split'"),
        ({"image": "sample:chelsea", "split": "signed"}, "split must be one of ratio, symmetric"),
        ({"image": "sample:chelsea", "identity": "no"}, "identity must be true or false"),
        ({"image": "sample:chelsea", "target": 3}, "target must be a whole number from 0 to 2"),
        ({"image": "sample:chelsea", "target": True}, "target must be a whole number"),
        ({"image": "sample:chelsea", "levels": 1_000_000}, "levels must be a whole number from 2 to 32"),
        ({"image": "sample:chelsea", "baselines": ["score-cam"]}, "baselines must be one of grad-cam"),
        ({"image": "sample:chelsea", "baselines": "grad-cam"}, "baselines must be a list"),
        ({"image": "sample:chelsea", "path": "/etc/passwd"}, "unknown fields: path"),
    ],
)
def test_a_request_for_what_is_not_on_offer_is_refused_in_a_sentence(client, asked, message):
    got = client.post("/api/jobs", json=asked)
    assert got.status_code == 422
    assert message in got.json()["error"]


def test_what_is_not_kept_is_answered_with_404(client):
    for asked in ({"image": "sample:../assets/README"}, {"image": "/etc/passwd"}, {"image": "nonsense"}):
        assert client.post("/api/jobs", json=asked).status_code == 404
    assert client.get("/api/jobs/nonsense").json()["error"].startswith("this result is no longer kept")
    assert client.get("/api/jobs/nonsense/heatmap.npy").status_code == 404
    assert client.get("/no/such/page").json() == {"error": "Not Found"}


def test_files_and_images_that_are_too_large_are_refused_before_they_are_read(client):
    got = client.post("/api/images", content=b"x" * (LIMITS.file_bytes + 1))
    assert (got.status_code, got.json()["error"][:27]) == (413, "this is larger than 0.2 MB,")
    chunks = (b"x" * 50_000 for _ in range(5))  # without a declared length
    assert client.post("/api/images", content=chunks).status_code == 413
    file = io.BytesIO()
    Image.new("1", (2000, 1000)).save(file, "png")
    got = client.post("/api/images", content=file.getvalue())
    assert got.status_code == 422
    assert "2 million pixels; at most 1 million" in got.json()["error"]


def test_other_hosts_and_other_websites_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"host": "[::1"}).status_code == 403
    assert client.get("/", headers={"host": "testserver:8000"}).status_code == 200
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        got = client.post("/api/images", content=encoded(), headers=headers)
        assert (got.status_code, got.json()["error"]) == (403, "the request comes from another website")
    assert client.post("/api/images", content=encoded(), headers={"origin": "http://testserver"}).status_code == 200


@pytest.fixture
def slow(monkeypatch):
    """A tiny_setup whose explanations wait for an event, and the event."""
    setup, go_on = tiny_setup(), threading.Event()
    quick = setup.explain

    def explain(*given, **options):
        assert go_on.wait(30)
        return quick(*given, **options)

    monkeypatch.setattr(setup, "explain", explain)
    yield setup, go_on
    go_on.set()


def test_the_queue_is_bounded_and_states_positions(slow):
    setup, go_on = slow
    asked = {"image": "sample:coffee"}
    with TestClient(make_app({"tiny": setup}, Limits(queue=2), hosts=None)) as client:
        first = client.post("/api/jobs", json=asked).json()["id"]
        while client.get(f"/api/jobs/{first}").json()["state"] != "running":
            pass
        second, third = (client.post("/api/jobs", json=asked).json() for _ in range(2))
        assert second["doing"] == "waiting, 1 before this one"
        assert third["doing"] == "waiting, 2 before this one"
        full = client.post("/api/jobs", json=asked)
        assert (full.status_code, full.json()["error"][:33]) == (503, "2 explanations wait already; try ")
        assert client.delete(f"/api/jobs/{second['id']}").json()["state"] == "cancelled"
        fourth = client.post("/api/jobs", json=asked)
        assert fourth.status_code == 202
        assert client.get(f"/api/jobs/{first}/heatmap.npy").json()["error"] == "this explanation is not done"
        go_on.set()
        for name in (first, third["id"], fourth.json()["id"]):
            assert finished(client, name)["state"] == "done"
        assert client.get(f"/api/jobs/{second['id']}").json()["state"] == "cancelled"


def test_old_results_and_images_are_deleted(setup):
    with TestClient(make_app({"tiny": setup}, Limits(queue=1, jobs=1, images=2), hosts=None)) as client:
        names = [client.post("/api/images", content=encoded(seed=seed)).json()["id"] for seed in range(3)]
        assert [client.post("/api/jobs", json={"image": name}).status_code for name in names[:1]] == [404]
        jobs = [client.post("/api/jobs", json={"image": names[2]}).json()["id"]]
        for _ in range(3):
            assert finished(client, jobs[-1])["state"] == "done"
            jobs.append(client.post("/api/jobs", json={"image": names[2]}).json()["id"])
        assert client.get(f"/api/jobs/{jobs[0]}").status_code == 404
        assert finished(client, jobs[-1])["state"] == "done"


def test_a_defect_is_logged_and_hidden_from_the_client(monkeypatch, caplog):
    setup = tiny_setup()

    def fails(*given, **options):
        raise RuntimeError("cannot open /home/somebody/secret.py")

    monkeypatch.setattr(setup, "explain", fails)
    with TestClient(make_app({"tiny": setup}, hosts=None)) as client:
        name = client.post("/api/jobs", json={"image": "sample:rocket"}).json()["id"]
        status = finished(client, name)
        assert status["state"] == "failed"
        assert status["error"].startswith("an error inside relprop")
        assert "secret" in caplog.text
        monkeypatch.undo()
        again = client.post("/api/jobs", json={"image": "sample:rocket"}).json()["id"]
        assert finished(client, again)["state"] == "done"  # the worker lives


def test_a_broken_route_is_hidden_from_the_client(client, monkeypatch):
    def breaks(*given):
        raise RuntimeError("cannot open /home/somebody/secret.py")

    monkeypatch.setattr("relprop.web.app.choices", breaks)
    got = client.get("/api/choices")
    assert (got.status_code, list(got.json())) == (500, ["error"])
    assert "secret" not in got.text


def test_every_choice_works(client, explain):
    choices = client.get("/api/choices").json()
    assert choices["images"] == list(demo.PHOTOGRAPHS)
    assert choices["models"] == [{"name": "tiny", "about": "tiny", "classes": list(CLASSES)}]
    for composite in choices["composites"]:
        splits = {"split": "symmetric", "identity": False} if composite["splits"] else {}
        status = explain(composite=composite["name"], **splits)
        assert status["state"] == "done" or "diverges" in status["error"], status
