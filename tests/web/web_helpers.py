"""The tiny network and pictures for the app, and how to wait for an answer."""

from __future__ import annotations

import io
import time

from torch import Tensor, nn

from relprop.images import Preprocess
from relprop.models import LoadedModel
from relprop.report import Workbench
from relprop.web import Limits
from tiny import Tiny, picture

LIMITS = Limits(file_bytes=200_000, pixels=1_000_000, upload_seconds=10)
SIZE = (24, 20)  # width and height of an uploaded picture
CLASSES = ("ant", "bee", "<b>cat</b>")
PREPARE = Preprocess(size=16, resize=16, mean=(0.5,), std=(0.25,))


class Pooled(Tiny):
    """Ends in smaller maps than it starts with, so that the app shows layers of two sizes."""

    def __init__(self) -> None:
        super().__init__(classes=len(CLASSES))
        self.pool = nn.MaxPool2d(2)

    def maps(self, x: Tensor) -> Tensor:
        return self.pool(super().maps(x))


def workbench() -> Workbench:
    return Workbench(LoadedModel(Pooled(), "tiny", PREPARE, CLASSES, "made in /home/somebody/here"))


def encoded(kind: str = "png", seed: int = 0, size: tuple[int, int] = SIZE) -> bytes:
    file = io.BytesIO()
    picture(seed, size).save(file, kind)
    return file.getvalue()


def finished(client, name: str, seconds: float = 60):
    """Follow a job to its end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = client.get(f"/api/jobs/{name}").json()
        if status["state"] not in ("waiting", "running"):
            return status
        time.sleep(0.02)
    raise AssertionError(f"still {status['state']} after {seconds} s")
