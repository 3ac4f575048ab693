"""Hostile clients: whatever they send, the server answers with a message, reveals nothing of its machine, and goes on.

RELPROP_FUZZ=200 runs the long form.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from web_tiny import LIMITS, encoded, finished

ROUNDS = int(os.environ.get("RELPROP_FUZZ", "36"))
LEAK = re.compile(
    r"Traceback|site-packages|File \"|\.py\b|0x[0-9a-f]{6}|/(?:home|usr|opt|etc|root|tmp|work|proc)/|object at"
)
NAMES = (
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "file:///etc/passwd",
    "picture.png\x00.php",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "sample:../../../../etc/passwd",
    "sample:/etc/passwd",
    "C:\\boot.ini",
    "~root/.ssh/id_rsa",
    "a" * 3000,
    "<script>alert(1)</script>",
    "{{7*7}}",
    "'; DROP TABLE jobs; --",
    "\ud83d\ude00" * 20,
)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file whose header claims a size, with whatever data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("../../../../etc/cron.d/evil", "x")
    return file.getvalue()


def upload(draw: random.Random) -> bytes:
    """One hostile upload: truncated, damaged, of another kind, of two kinds, or too large in one way or another."""
    good = encoded(draw.choice(["png", "jpeg", "gif", "bmp", "webp", "tiff"]), seed=draw.randrange(99))

    def damaged() -> bytes:
        content = bytearray(good)
        for _ in range(draw.randrange(1, 30)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        return bytes(content)

    kinds = [
        lambda: good[: draw.randrange(len(good))],
        damaged,
        lambda: draw.randbytes(draw.randrange(5000)),
        lambda: good[:8] + draw.randbytes(500),
        lambda: draw.choice([b"", b"\x00", b"GIF89a", b"\xff\xd8\xff\xe0", b"RIFF\x00\x00\x00\x00WEBPVP8 ", b"II*"]),
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3 /etc/passwd",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file",
        lambda: b"<!doctype html><script>fetch('/etc/passwd')</script>",
        archive,
        lambda: good + archive(),
        lambda: b"GIF89a/*" + draw.randbytes(20) + b"*/=1;alert(1)",
        lambda: png(draw.choice([60_000, 2**31 - 1, 0]), draw.choice([60_000, 1])),
        lambda: png(900, 900, b"\x00" * 100),
        lambda: png(900, 1000, bytes(900_000 * 3 + 1000)),  # a few kilobytes that decode to megabytes
        lambda: b"\x00" * (LIMITS.file_bytes + draw.randrange(1, 50_000)),
        lambda: b'--x\r\nContent-Disposition: form-data; filename="../../etc/passwd"\r\n\r\n' + good + b"\r\n--x--",
        lambda: b"#!/bin/sh\nrm -rf /\n" + good,
    ]  # fmt: skip
    return draw.choice(kinds)()


def request(draw: random.Random) -> bytes:
    """One hostile request: no JSON, too deep, too long, of wrong types, or full of paths."""
    fields = ["image", "model", "target", "composite", "split", "identity", "levels", "baselines", "__class__"]
    values = [*NAMES, None, True, -1, 10**30, 1e308, [], {}, [[[]]], ["../x"] * 9, {"$ref": "/etc/passwd"}]
    plain = {draw.choice(fields): draw.choice(values) for _ in range(draw.randrange(1, 5))}
    kinds = [
        lambda: json.dumps({"image": "sample:chelsea"} | plain).encode(),
        lambda: json.dumps(plain).encode(),
        lambda: b"[" * 4000,
        lambda: b'{"image": "' + b"a" * 9000,
        lambda: draw.randbytes(200),
        lambda: b'{"target": NaN, "image": "sample:chelsea"}',
        lambda: b'\xff\xfe{"picture"',
    ]
    return draw.choice(kinds)()


def attack(client, seed: int) -> None:
    """Send one hostile upload, one hostile request and one hostile address, and look at what comes back."""
    draw = random.Random(seed)
    headers = {
        "content-type": draw.choice(["image/png", "text/html", "multipart/form-data; boundary=x", "application/json"]),
        "content-disposition": 'attachment; filename="../../etc/passwd"',
        "x-forwarded-for": "127.0.0.1",
    }
    got = client.post("/api/images", content=upload(draw), headers=headers)
    checked(got, {200, 413, 422})
    if got.status_code == 200:  # of two kinds at once, or damaged where it does not matter: then it is an image
        asked = client.post("/api/jobs", json={"image": got.json()["id"]})
        checked(asked, {202, 503})
        if asked.status_code == 202:
            assert finished(client, asked.json()["id"])["state"] in ("done", "failed")
    checked(client.post("/api/jobs", content=request(draw)), {202, 404, 413, 422, 503})
    name = draw.choice(NAMES).encode("utf-8", "replace").decode().replace("\x00", "%00")
    for path in (f"/api/jobs/{name}", f"/api/jobs/{name}/report.html", f"/api/images/{name}.jpg", f"/{name}"):
        got = client.get(path)
        if got.url.path != "/":  # clients take "/.." off themselves, and are left with the page
            checked(got, {403, 404, 405})


def checked(got, codes: set[int]) -> None:
    assert got.status_code in codes, (got.status_code, got.text[:300])
    assert not LEAK.search(got.text), got.text[:500]
    if got.status_code >= 400:
        assert list(got.json()) == ["error"]


@pytest.mark.parametrize("start", range(0, ROUNDS, 12))
def test_hostile_clients_get_messages_and_the_server_goes_on(client, start):
    with ThreadPoolExecutor(6) as many:
        for outcome in [many.submit(attack, client, seed) for seed in range(start, min(start + 12, ROUNDS))]:
            outcome.result()
    asked = client.post("/api/jobs", json={"image": "sample:chelsea"})
    if asked.status_code == 503:  # hostile requests still wait; they end
        pytest.fail("the queue stayed full")
    assert finished(client, asked.json()["id"])["state"] == "done"


def test_the_look_for_leaks_can_fail():
    for text in ('File "/opt/x/app.py", line 3', "open /etc/passwd", "<_io.BytesIO object at 0x7f12ab34cd>"):
        assert LEAK.search(text)


def test_what_is_decoded_is_bounded_by_the_header(client, monkeypatch):
    def load(*given, **options):
        raise AssertionError("the image was decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    got = client.post("/api/images", content=png(60_000, 60_000))
    assert got.status_code == 422
    assert "3600 million pixels" in got.json()["error"] or "64 million" in got.json()["error"]
