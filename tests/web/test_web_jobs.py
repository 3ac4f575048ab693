"""The job queue: jobs that nobody waits for stop between operations, and leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import time

import pytest
import torch
from starlette.testclient import TestClient
from web_tiny import Deep, finished, image, tiny_setup

from relprop.web import Limits, make_app
from relprop.web.jobs import SHUTTING_DOWN, StoppedError, _CheckBeforeOperations

PATIENCE = 120


def wait_for(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def slow():
    """A setup whose explanations take a minute and more, and its model, which counts the layers that it computes."""
    setup = tiny_setup(Deep)
    return setup, setup.loaded.model


def queue_of(setup, **limits):
    return make_app({"slow": setup, "tiny": tiny_setup()}, Limits(**limits), hosts=None)


def test_a_cancel_stops_the_job_between_layers(slow, caplog):
    setup, model = slow
    with TestClient(queue_of(setup)) as client:
        job = client.post("/api/jobs", json={"image": "sample:coffee", "model": "slow"}).json()["id"]
        wait_for(lambda: model.calls >= 2)
        status = client.delete(f"/api/jobs/{job}").json()
        assert (status["state"], status["error"]) == ("cancelled", "this explanation was cancelled")
        quick = client.post("/api/jobs", json={"image": "sample:coffee", "model": "tiny"}).json()["id"]
        assert finished(client, quick, PATIENCE)["state"] == "done"
        assert model.calls < len(model.layers)
        assert client.get(f"/api/jobs/{job}").json()["state"] == "cancelled"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_job_that_no_client_asks_for_is_stopped(slow, caplog):
    setup, model = slow
    app = queue_of(setup, unasked_seconds=1.5)
    with TestClient(app) as client:
        running, waiting = (
            client.post("/api/jobs", json={"image": "sample:coffee", "model": "slow"}).json()["id"] for _ in range(2)
        )
        jobs = [app.state.jobs.find(one) for one in (running, waiting)]  # does not count as asking
        wait_for(lambda: all(job.ended for job in jobs))
        for job in (running, waiting):
            status = client.get(f"/api/jobs/{job}").json()
            assert (status["state"], status["error"][:30]) == ("cancelled", "this explanation was stopped, ")
        assert 0 < model.calls < len(model.layers)
        quick = client.post("/api/jobs", json={"image": "sample:coffee", "model": "tiny"}).json()["id"]
        assert finished(client, quick, PATIENCE)["state"] == "done"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_job_that_a_client_asks_for_goes_on(slow):
    setup, model = slow
    with TestClient(queue_of(setup, unasked_seconds=1.5)) as client:
        job = client.post("/api/jobs", json={"image": "sample:coffee", "model": "slow"}).json()
        wait_for(lambda: client.get(f"/api/jobs/{job['id']}?after={job['version']}") and model.calls >= 12)  # 3 s
        assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "running"


def test_a_question_for_a_later_version_is_answered_at_the_change(slow):
    setup, _ = slow
    with TestClient(queue_of(setup)) as client:
        asked = {"image": "sample:coffee", "model": "slow"}
        first, second = (client.post("/api/jobs", json=asked).json() for _ in range(2))
        wait_for(lambda: client.get(f"/api/jobs/{first['id']}").json()["progress"] > 0)
        start = time.monotonic()
        held = client.get(f"/api/jobs/{second['id']}?after={second['version']}").json()
        assert time.monotonic() - start > 1.5  # nothing has changed
        assert held["version"] == second["version"]
        client.delete(f"/api/jobs/{second['id']}")
        assert client.get(f"/api/jobs/{second['id']}?after={second['version']}").json()["state"] == "cancelled"


class Brief(Deep):
    """Three convolutions of a tenth of a second each."""

    def __init__(self) -> None:
        super().__init__(3, 0.1)


def test_a_running_job_says_its_stage_and_from_the_second_image_on_the_time_left():
    with TestClient(make_app({"brief": tiny_setup(Brief)}, Limits(), hosts=None)) as client:
        seen: list[list[dict]] = []
        for _ in range(2):
            status = client.post("/api/jobs", json={"image": "sample:coffee", "model": "brief"}).json()
            start, seen = time.monotonic(), [*seen, []]
            while status["state"] in ("waiting", "running"):
                assert time.monotonic() - start < PATIENCE
                seen[-1] += [status] if status["state"] == "running" else []
                status = client.get(f"/api/jobs/{status['id']}").json()
            took = time.monotonic() - start
            assert status["state"] == "done"
    first, second = seen
    stages = ["preparing the image", "propagating relevance", "lrp-cuts", "drawing"]
    assert (
        {(2, stages[1]), (3, stages[2])} <= {(one["stage"], one["doing"]) for one in first} <= set(enumerate(stages, 1))
    )
    assert first[0]["left"] is None  # nothing is known of this network yet
    left = [one["left"] for one in second]
    assert left[0] > 0.2  # two forward runs or more
    assert left[-1] < left[0] / 2
    assert left[0] < 4 * took + 2
    progress = [one["progress"] for one in second]
    assert progress[0] < 0.5 < progress[-1] <= 1


def test_closing_ends_every_job_with_a_message(slow):
    setup, model = slow
    app = queue_of(setup)
    with TestClient(app) as client:
        names = [
            client.post("/api/jobs", json={"image": "sample:coffee", "model": "slow"}).json()["id"] for _ in range(3)
        ]
        wait_for(lambda: model.calls >= 2)
        assert app.state.jobs.close(PATIENCE)
        assert model.calls < len(model.layers)
        for name in names:
            status = client.get(f"/api/jobs/{name}").json()
            assert (status["state"], status["error"]) == ("failed", SHUTTING_DOWN)
        refused = client.post("/api/jobs", json={"image": "sample:coffee"})
        assert (refused.status_code, refused.json()["error"]) == (503, SHUTTING_DOWN)


class Countdown:
    """Raises at a given operation, counted from 0."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def __call__(self) -> None:
        if self.count == self.last:
            raise StoppedError
        self.count += 1


@pytest.mark.parametrize("stride", [17, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("methods", [(), ("lrp-cuts",), ("input-x-gradient",)], ids=["lrp", "lrp-cuts", "captum"])
def test_a_stop_leaves_later_results_as_they_are(methods, stride):
    """Stop before one operation after the other, and compare what the same setup computes next."""
    if "input-x-gradient" in methods:
        pytest.importorskip("captum")

    def maps(setup) -> list[torch.Tensor]:
        return [found.heatmap for found in setup.explain("a", image(), methods=methods).maps]

    setup = tiny_setup()
    plain = maps(setup)
    for used in (False, True):  # a setup at its first image, and one that has prepared its weights
        setup = setup if used else tiny_setup()
        whole = Countdown(-1)
        with _CheckBeforeOperations(whole):
            assert all(map(torch.equal, maps(setup), plain))  # the check itself changes nothing
        assert whole.count > 20
        for last in range(0, whole.count, stride):
            setup = setup if used else tiny_setup()
            stop = Countdown(last)
            with contextlib.suppress(StoppedError), _CheckBeforeOperations(stop):
                maps(setup)
            assert stop.count <= last  # it was stopped there, or what was prepared meanwhile left fewer operations
            assert all(map(torch.equal, maps(setup), plain)), last
    assert all(parameter.grad is None for parameter in setup.loaded.model.parameters())
