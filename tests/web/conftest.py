from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the app needs the extra web")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")
sys.path.insert(0, str(Path(__file__).parent))

from starlette.testclient import TestClient
from web_tiny import LIMITS, finished, tiny_setup

from relprop.web import make_app


@pytest.fixture(scope="session")
def setup():
    return tiny_setup()


@pytest.fixture
def client(setup):
    """The app, served to a client that shows the answer where the server fails."""
    app = make_app({"tiny": setup}, LIMITS, hosts={"testserver"})
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def explain(client):
    """ExplanationRequest for something and wait for the outcome."""

    def ask(**request):
        got = client.post("/api/jobs", json={"image": "sample:chelsea"} | request)
        assert got.status_code == 202, got.text
        return finished(client, got.json()["id"])

    return ask
