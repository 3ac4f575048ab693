"""`relprop serve`: where it listens, and what it refuses before it starts."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relprop.cli import app

uvicorn = pytest.importorskip("uvicorn", reason="the app needs the extra web")
sys.path.insert(0, str(Path(__file__).parent))  # so that --model web_tiny:Tiny is found
MODEL = ["--model", "web_tiny:Tiny", "--size", "16", "--mean", "0.5", "--std", "0.25", "--device", "cpu"]


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
    assert "token" not in done.output


def test_on_other_addresses_it_warns_and_prints_a_token(heard):
    done = serve(*MODEL, "--host", "0.0.0.0", "--port", 0)
    assert done.exit_code == 0, done.output
    ((host, port),) = heard
    assert host == "0.0.0.0"
    assert "The connection is not encrypted" in done.output.replace("\n", " ")
    tokens = set(re.findall(rf":{port}/\?token=([\w-]+)", done.output))
    assert len(tokens) == 1
    again = re.findall(r"token=([\w-]+)", serve(*MODEL, "--host", "0.0.0.0", "--port", 0).output)
    assert len(tokens.pop()) >= 32
    assert again[0] not in done.output


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", "--host is empty"),
        ("  ", "--host is empty"),
        ("192.0.2.1", "choose another --port or --host"),  # an address that no machine has
        ("localhost:8000", "choose another --port or --host"),
        ("[::1]", "choose another --port or --host"),
        (f"{'a' * 70}.example", "choose another --port or --host"),
        ("255.255.255.255", "cannot be reached"),
        ("127.255.255.255", "cannot be reached"),
        ("224.0.0.1", "cannot be reached"),
        ("<broadcast>", "cannot be reached"),
    ],
)
def test_a_host_that_nobody_can_reach_is_refused_before_any_warning(heard, host, message):
    done = serve(*MODEL, "--host", host, "--port", 0)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert done.output.startswith("error: ")
    assert "warning" not in done.output
    assert heard == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "::1"])
def test_all_spellings_of_loopback_need_no_token(heard, host):
    done = serve(*MODEL, "--host", host, "--port", 0)
    assert done.exit_code == 0, done.output
    assert len(heard) == 1
    assert "token" not in done.output
    assert "warning" not in done.output


@pytest.mark.parametrize("name", ["*", "http://a.example", "a.example:80", ""])
def test_further_hosts_are_names_alone(heard, name):
    done = serve(*MODEL, "--allow-host", name, "--port", 0)
    assert done.exit_code == 2
    assert "takes a name or an address" in done.output
    assert heard == []


def test_two_models_of_one_name_get_different_names(heard):
    done = serve("--model", "web_tiny:Tiny", "--model", "web_tiny:Tiny", "--device", "cpu", "--port", 0)
    assert done.exit_code == 0, done.output
    names = done.output.split(" at http")[0].split("serves ")[1].split(", ")
    assert len(set(names)) == 2


def test_a_port_that_is_taken_is_an_error_with_a_message(heard):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = serve(*MODEL, "--port", other.getsockname()[1])
    assert done.exit_code == 2
    assert "choose another --port" in done.output
    assert heard == []


def test_images_that_are_named_can_be_chosen_on_the_page(monkeypatch, tmp_path):
    served = []

    def run(server, sockets):
        served.append(server.config.app.state.jobs.images)
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    (tmp_path / "inner").mkdir()
    for name in ("cat.png", "dog.png", "inner/cat.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert serve(tmp_path, "--recursive", *MODEL, "--port", 0).exit_code == 0
    assert serve(*MODEL, "--port", 0).exit_code == 0
    named, bundled = served
    assert named == {
        "cat": tmp_path / "cat.png", "dog": tmp_path / "dog.png", "cat-2": tmp_path / "inner" / "cat.png",
    }  # fmt: skip
    assert list(bundled) == ["chelsea", "coffee", "rocket"]


def test_a_folder_that_is_not_there_is_an_error_before_a_model_is_loaded(heard, tmp_path):
    done = serve(tmp_path / "nothing", "--model", "no.such:model", "--port", 0)
    assert done.exit_code == 2
    assert "there is no file or folder" in done.output
    assert heard == []


def test_options_of_one_model_need_one_model(heard):
    done = serve("--model", "web_tiny:Tiny", *MODEL)
    assert done.exit_code == 2
    assert "give one --model with them" in done.output
