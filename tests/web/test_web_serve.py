"""`relprop serve`: where it listens, and what it refuses before it starts."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from relprop.cli import app
from tiny import OPTIONS as MODEL

uvicorn = pytest.importorskip("uvicorn", reason="the app needs the extra web")


@pytest.fixture
def heard(monkeypatch):
    """Addresses that a server was started on; it ends at once."""
    found = []

    def run(server, sockets):
        found.extend(one.getsockname()[:2] for one in sockets)
        for one in sockets:
            one.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def serve(*arguments: object):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def test_it_listens_on_this_machine_alone_and_says_where(heard):
    done = serve(*MODEL, "--port", 0)
    assert done.exit_code == 0, done.output
    ((host, port),) = heard
    assert host == "127.0.0.1"
    assert f"http://127.0.0.1:{port}/" in done.output
    assert "without a password" not in done.output


def test_it_warns_where_others_can_reach_it(heard):
    done = serve(*MODEL, "--host", "0.0.0.0", "--port", 0)
    assert done.exit_code == 0, done.output
    assert heard[0][0] == "0.0.0.0"
    assert "without a password" in done.output.replace("\n", " ")


def test_two_models_of_one_name_are_told_apart(heard):
    done = serve("--model", "tiny:make", "--model", "tiny:make", "--device", "cpu", "--port", 0)
    assert done.exit_code == 0, done.output
    names = done.output.split(" at http")[0].split("serves ")[1].split(", ")
    assert len(set(names)) == 2


def test_a_port_that_is_taken_is_an_error_in_words(heard):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = serve(*MODEL, "--port", other.getsockname()[1])
    assert done.exit_code == 2
    assert "choose another --port" in done.output
    assert heard == []


def test_options_of_one_model_need_one_model(heard):
    done = serve("--model", "tiny:make", *MODEL)
    assert done.exit_code == 2
    assert "give one --model with them" in done.output
