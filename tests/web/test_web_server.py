"""The server on a real port: slow clients, clients that leave, Ctrl+C, hosts and tokens."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner
from web_tiny import LIMITS, encoded, served, tiny_setup

from relprop.cli import app as cli
from relprop.cli.serve import _run
from relprop.web import make_app

pytest.importorskip("uvicorn", reason="the app needs the extra web")
OPTIONS = ["--size", "16", "--device", "cpu"]
MODEL = ["--model", "web_tiny:Tiny", *OPTIONS]
HEAD = b"GET /api/choices HTTP/1.1\r\nHost: 127.0.0.1\r\n"
UPLOAD = b"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def app():
    return make_app({"tiny": tiny_setup()}, LIMITS)


def get(port: int, path: str = "/api/choices", method: str = "GET", body: bytes | None = None, **headers: str):
    """One request on a connection of its own: status, headers, content."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def begun(port: int, *parts: bytes) -> socket.socket:
    """A connection on which something was sent."""
    made = socket.create_connection(("127.0.0.1", port), timeout=90)
    for part in parts:
        made.sendall(part)
    return made


def rest(connection: socket.socket) -> bytes:
    """All that still arrives until the server closes the connection."""
    found = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize("sent", [b"", HEAD, UPLOAD + b"x"], ids=["nothing", "headers", "bodies"])
def test_many_half_sent_requests_keep_nobody_out(app, sent):
    with served(app, seconds=600, connections=16) as port:
        held = [begun(port, sent) for _ in range(40)]
        for _ in range(5):
            assert get(port)[0] == 200
        closed = [rest(one) for one in held[:20]]  # the oldest first
        assert all(b"HTTP/1.1 200" not in answer for answer in closed)
        for one in held[20:]:
            one.close()


def test_beyond_the_limit_a_client_is_refused_where_nobody_can_be_closed(app, monkeypatch):
    monkeypatch.setattr("relprop.web.server._TimedProtocol._waits", False)  # as if all were being answered
    with served(app, seconds=600, connections=4) as port:
        held = [begun(port) for _ in range(4)]
        assert get(port)[0] == 503
        held.pop().close()
        held.pop().close()
        end = time.monotonic() + 60
        while get(port)[0] != 200:
            assert time.monotonic() < end
        for one in held:
            one.close()


@pytest.mark.parametrize(
    ("sent", "what"),
    [((HEAD,), b"header"), ((UPLOAD, b"x"), b"body"), ((HEAD + b"\r\n", b"GET / HT"), b"header")],
    ids=["half a header", "half a body", "half a second header"],
)
def test_a_request_that_does_not_arrive_is_answered_with_a_time_out(app, sent, what):
    with served(app, seconds=1) as port:
        start = time.monotonic()
        answer = rest(begun(port, *sent))
        assert 0.9 < time.monotonic() - start < 20
        assert b"HTTP/1.1 408 " in answer
        assert b"the " + what + b" of the request took longer than 1 seconds" in answer


def lasts(connection: socket.socket, sent: bytes) -> float:
    """Send something every tenth of a second; seconds until the server has closed the connection."""
    start = time.monotonic()
    while time.monotonic() - start < 60:
        try:
            connection.sendall(sent)
        except ConnectionError:
            return time.monotonic() - start
        time.sleep(0.1)
    raise AssertionError("still open after 60 s")


@pytest.mark.parametrize("begin", [b"", UPLOAD], ids=["header", "body"])
def test_bytes_that_trickle_do_not_extend_the_time(app, begin):
    with served(app, seconds=1) as port, begun(port, begin) as slow:
        assert lasts(slow, b"x") < 20  # a body of a thousand bytes would take 100 seconds


def test_a_connection_on_which_nothing_is_sent_is_closed(app):
    with served(app, seconds=1) as port:
        start = time.monotonic()
        assert rest(begun(port)) == b""
        assert time.monotonic() - start < 20


def test_a_client_that_reads_nothing_is_dropped(app):
    with served(app, seconds=1) as port, begun(port) as deaf:
        request = b"GET /app.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        assert lasts(deaf, request * 20) < 20


def test_what_arrives_in_time_is_answered_however_it_is_cut(app):
    with served(app, seconds=60) as port:
        content = encoded()
        whole = (
            b"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % len(content)
        )
        whole += content
        with begun(port) as cut:
            for at in range(0, len(whole), 300):
                cut.sendall(whole[at : at + 300])
                time.sleep(0.02)
            assert rest(cut).startswith(b"HTTP/1.1 200 ")


BROKEN = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # TLS
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGARBAGE\r\n\r\n",
    b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
)


def test_what_is_not_http_is_answered_like_any_other_error(app):
    with served(app) as port:
        answer = rest(begun(port, BROKEN[0]))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"nosniff" in answer
    assert answer.endswith(b'{"error": "this is not a valid HTTP request"}')


class Process:
    """`relprop serve` in a process of its own."""

    def __init__(self, log: Path, *arguments: str, model: str = "web_tiny:Tiny") -> None:
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells may have it ignored
            "from relprop.cli import main; main()"
        )
        command = [sys.executable, "-c", code, "serve", "--model", model, *OPTIONS, "--port", "0"]
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r":(\d+)/", self.line)
        assert found, self.log.read_text()
        self.port = int(found[1])

    def ask(self, **request: object) -> str:
        """Ask for an explanation: its id."""
        body = json.dumps({"image": "sample:chelsea"} | request).encode()
        status, _, content = get(self.port, "/api/jobs", "POST", body)
        assert status == 202, content
        return json.loads(content)["id"]

    def wait_until(self, job: str, state: str) -> None:
        end = time.monotonic() + 120
        while json.loads(get(self.port, f"/api/jobs/{job}")[2])["state"] != state:
            assert time.monotonic() < end, f"not {state} after 120 s"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGINT, seconds: float = 60) -> tuple[int, str]:
        """Send a signal: exit code, and what was written to standard error."""
        self.process.send_signal(number)
        return self.process.wait(seconds), self.log.read_text()


@pytest.fixture
def start(tmp_path):
    """Start `relprop serve`; it is killed where the test leaves it running."""
    made: list[Process] = []

    def begin(*arguments: str, **options: str) -> Process:
        made.append(Process(tmp_path / f"log{len(made)}", *arguments, **options))
        return made[-1]

    yield begin
    for one in made:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()


def test_clients_that_leave_or_speak_no_http_leave_no_traceback_and_ctrl_c_answers_all_others(start):
    server = start(model="web_tiny:Deep")
    for sent in BROKEN:
        for keep in (0.0, 0.1):
            with begun(server.port, sent):
                time.sleep(keep)
    for part in (UPLOAD, UPLOAD + b"x" * 500, HEAD):
        for linger in (False, True):
            with begun(server.port, part) as left:
                time.sleep(0.05)
                if linger:  # reset instead of an orderly end
                    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    running, waiting = server.ask(), server.ask()
    server.wait_until(running, "running")
    with begun(server.port, b"GET /api/jobs/%s?after=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % running.encode()):
        time.sleep(0.2)
    assert get(server.port)[0] == 200
    version = [json.loads(get(server.port, f"/api/jobs/{job}")[2])["version"] for job in (running, waiting)]
    held = [
        begun(server.port, b"GET /api/jobs/%s?after=%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (job.encode(), at))
        for job, at in zip((running, waiting), version, strict=True)
    ]
    half = begun(server.port, UPLOAD)
    time.sleep(0.2)
    begin = time.monotonic()
    code, errors = server.end()
    assert time.monotonic() - begin < 30  # the explanation alone takes a minute and more
    assert code == 130
    assert errors == "Ctrl+C ends it\nerror: interrupted\n"
    answers = [rest(one) for one in held]
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    # the running job may have made progress meanwhile, which answers its poll
    assert b"the server is shutting down" in answers[0] or b'"running"' in answers[0]
    assert b"the server is shutting down" in answers[1]
    assert b"HTTP/1.1 503 " in rest(half)


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_no_traceback(start):
    server = start(model="web_tiny:Deep")
    server.wait_until(server.ask(), "running")
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    code, errors = server.end()
    assert code == 130
    assert "Traceback" not in errors


class Interrupted:
    """A server that Ctrl+C ends, with a second Ctrl+C while its jobs are closed."""

    def __init__(self) -> None:
        self.jobs, self.closed = self, False

    def run(self, sockets: list[socket.socket]) -> None:
        raise KeyboardInterrupt

    def close(self, seconds: float) -> bool:
        signal.raise_signal(signal.SIGINT)
        self.closed = True
        return True


def test_a_second_ctrl_c_does_not_keep_jobs_from_being_closed():
    server, handler = Interrupted(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(KeyboardInterrupt):
            _run(server, listening)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert server.closed


def require_that_others_need_the_token_and_the_right_host(port: int, token: str) -> None:
    me = "127.0.0.1"
    for path in ("/", "/app.js", "/api/choices", "/api/jobs/x", f"/?token={token[:-1]}", "/?token=", "/?token=%ff%00"):
        status, headers, content = get(port, path)
        assert (status, headers["Set-Cookie"]) == (401, None), path
        assert "token" in json.loads(content)["error"]
    assert get(port, f"/?token={token}", Host="evil.example")[0] == 403
    assert get(port, f"/?token={token}", "POST", b"")[0] == 401
    status, headers, _ = get(port, f"/?token={token}")
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    cookie = cookie.split(";")[0]
    assert cookie.startswith(f"relprop-{port}=")
    assert get(port, f"//evil.example/?token={token}")[1]["Location"] == "/"
    for host in (me, f"{me}:{port}", "localhost", socket.gethostname().lower(), "proxy.example", "PROXY.example:80"):
        assert get(port, Cookie=cookie, Host=host)[0] == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "192.0.2.7", "0.0.0.1", "[::1", "proxy.example.", ""):
        assert get(port, Cookie=cookie, Host=host)[0] == 403, host
    for wrong in (f"relprop-{port}={token[:-1]}", f"relprop-{port}=", f"relprop-1={token}", f"relprop-{port}=\u00e9"):
        assert get(port, Cookie=wrong)[0] == 401, wrong
    body = b"{}"
    for origin in ("http://evil.example", "null", "http://[", f"http://{me}:1", "http://localhost"):
        assert get(port, "/api/jobs", "POST", body, Cookie=cookie, Origin=origin)[0] == 403, origin
    assert get(port, "/api/jobs", "POST", body, Cookie=cookie, Sec_Fetch_Site="same-site")[0] == 403
    assert get(port, "/api/jobs", "POST", body, Cookie=cookie, Origin=f"http://{me}:{port}")[0] == 422


OTHERS = ("--host", "0.0.0.0", "--allow-host", "Proxy.example")


def test_others_need_the_token_and_the_right_host(monkeypatch):
    made = []
    monkeypatch.setattr("relprop.cli.serve._run", lambda server, listening: made.append(server.config.app) or 0)
    done = CliRunner().invoke(cli, ["serve", *MODEL, "--port", "0", *OTHERS])
    token = re.search(r"token=([\w-]+)", done.output)[1]
    with served(made[0]) as port:
        require_that_others_need_the_token_and_the_right_host(port, token)


@pytest.mark.slow
def test_others_need_the_token_in_a_process_of_its_own_and_ctrl_c_exits_with_130(start):
    server = start(*OTHERS)
    token = re.search(r"token=([\w-]+)", server.line)[1]
    require_that_others_need_the_token_and_the_right_host(server.port, token)
    code, errors = server.end()  # by Ctrl+C, while it is idle
    assert token not in errors
    assert (code, errors.endswith("Ctrl+C ends it\nerror: interrupted\n")) == (130, True)


def test_the_token_is_compared_in_constant_time(monkeypatch):
    """Each attempt goes through `secrets.compare_digest`, whichever part of it is wrong."""
    from starlette.testclient import TestClient

    from relprop.web import security

    compared = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(given)
        return given == known

    monkeypatch.setattr(security.secrets, "compare_digest", compare)
    with TestClient(make_app({"tiny": tiny_setup()}, hosts=None, token="secret"), follow_redirects=False) as client:
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/", headers={"Cookie": "relprop-80=secre"}).status_code == 401
        assert client.get("/?token=secret").status_code == 303
        assert client.get("/").status_code == 200  # the cookie
    assert {b"wrong", b"secre", b"secret"} <= set(compared)
