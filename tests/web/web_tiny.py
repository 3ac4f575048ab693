"""A model and images small enough for the app to answer in milliseconds."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from relprop.images import Preprocess
from relprop.models import LoadedModel
from relprop.sessions import Session
from relprop.web import Limits

LIMITS = Limits(file_bytes=200_000, pixels=1_000_000)
CLASSES = ("ant", "bee", "<b>cat</b>")


class Tiny(nn.Module):
    """A convolution, one residual block with an identity skip, and a classifier of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv1(x))
        h = self.pool(torch.relu(h + self.block(h)))
        return self.fc(h.mean((2, 3)))


class Deep(nn.Module):
    """Many convolutions that each take a moment, so that an explanation takes a minute and more."""

    def __init__(self, layers: int = 250, seconds: float = 0.25) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(layers))
        self.fc = nn.Linear(3, 3)
        self.seconds, self.calls = seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            time.sleep(self.seconds)
            self.calls += 1
            x = torch.relu(layer(x))
        return self.fc(x.mean((2, 3)))


PREPARE = Preprocess(size=16, resize=16, mean=(0.5,), std=(0.25,))


def tiny_setup(kind: type[nn.Module] = Tiny) -> Session:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().eval()
    return Session(LoadedModel(model, "tiny", PREPARE, CLASSES, "made in /home/somebody/here"))


def image(seed: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(kind: str = "png", seed: int = 0, size: tuple[int, int] = (24, 20)) -> bytes:
    file = io.BytesIO()
    image(seed, size).save(file, kind)
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


@contextlib.contextmanager
def served(app, **options):
    """The application on a free port of this machine, which is yielded."""
    from relprop.web.server import Server

    server = Server(app, **options)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield port
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
