"""Change files at random and read them: how many are refused, read all the same, or end the process.

    python benchmarks/attacks.py [TRIES [KIND ...]]

Each kind of file (KIND: the beginning of its name in the table) is changed TRIES times (200 by default, from one seed):
a byte, a run of bytes, or the length. Every try is made in a process of its own, forked, so that one that ends or hangs
it is counted and not suffered.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import relprop
from relprop.cifar import cifar_resnet
from relprop.data import open_dataset
from relprop.errors import RelpropError
from relprop.evaluation import ModelSpec, Plan, Row
from relprop.evaluation.store import begin, open_run, summary_of
from relprop.images import read_image
from relprop.models import load_model

SECONDS = 60
"""After which a try counts as one that hangs."""

Kind = tuple[Path, Callable[[], object]]
"""A file, and how it is read."""


class Tiny(torch.nn.Module):
    """A residual block, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.fc = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x + self.conv(x).relu()).mean((2, 3)))


def kinds(root: Path) -> dict[str, Kind]:
    """Each kind of file that `make` writes, with its reader."""
    pictures = {
        f"picture, {suffix}": (root / f"a.{suffix}", _read_picture(root / f"a.{suffix}")) for suffix in SUFFIXES
    }
    result, run, table = root / "result", root / "run", root / "data.parquet"
    return {
        **pictures,
        "checkpoint, pickle": (root / "w.pth", lambda: load_model(root / "w.pth", arch="cifar-resnet8")),
        "checkpoint, safetensors": (root / "w.safetensors", lambda: load_model(root / "w.safetensors")),
        "saved result, tensors": (result / "relevance.safetensors", lambda: relprop.Relevance.load(result)),
        "saved result, manifest": (result / "manifest.json", lambda: relprop.Relevance.load(result)),
        "run, shard": (run / "shards" / "00001.parquet", lambda: _read_run(run)),
        "run, manifest": (run / "manifest.json", lambda: _read_run(run)),
        "data set, parquet": (table, lambda: _read_data(table)),
    }


SUFFIXES = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")


def _read_picture(path: Path) -> Callable[[], object]:
    return lambda: read_image(path)


def _read_run(root: Path) -> None:
    summary = summary_of(open_run(root))
    if summary.left_out:
        raise RelpropError(summary.left_out[0])


def _read_data(path: Path) -> None:
    dataset = open_dataset(f"parquet:{path}")
    for sample in dataset.samples[:20]:
        dataset.load(sample)


def make(root: Path) -> None:
    """Write one file of each kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    for suffix in SUFFIXES:
        pixels.save(root / f"a.{suffix}")
    state = cifar_resnet(8).state_dict()
    torch.save(state, root / "w.pth")
    save_file(state, root / "w.safetensors", {"arch": json.dumps("cifar-resnet8")})
    relprop.LRP(Tiny().eval(), keep=["conv"])(torch.rand(1, 3, 8, 8)).save(root / "result")
    plan = Plan(ModelSpec("tiny"), "folder:x", ("lrp", "constant", "random"), batch=4)
    store = begin(root / "run", plan, 2, {"weights": "w"}, {"samples": 8})
    for chunk in range(2):
        names = [(str(4 * chunk + at), explainer) for at in range(4) for explainer in plan.explainers]
        store.write(chunk, [Row(n, 0, 0, e, "none", "id", "fair", "shuffled", 0.5) for n, e in names], {})
    content = (root / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [content] * 6, "label": [0, 1] * 3}), root / "data.parquet")


def changes(content: bytes, tries: int, seed: str) -> Iterator[bytes]:
    """The content with a byte, a run of bytes, or its length changed."""
    chance = random.Random(seed)
    for _ in range(tries):
        changed, at = bytearray(content), chance.randrange(len(content))
        kind = chance.choice(["byte", "run", "length"])
        if kind == "byte":
            changed[at] ^= chance.randrange(1, 256)
        elif kind == "run":
            size = min(chance.randrange(1, 64), len(content) - at)
            changed[at : at + size] = chance.randbytes(size)
        else:
            del changed[at:]
        yield bytes(changed)


def outcome(read: Callable[[], object]) -> str:
    """Read in a forked process: refused, read, another error, a signal, or no end."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            read()
        except RelpropError:
            code = 10
        except BaseException:
            code = 11
        os._exit(code)
    began = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.001)
    if os.WIFSIGNALED(status):
        return "ends the process"
    return {0: "read", 10: "refused", 11: "another error"}.get(os.WEXITSTATUS(status), "another error")


def main(tries: int, chosen: tuple[str, ...]) -> None:
    """Print a table: a row a kind of file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    heads = ("refused", "read", "another error", "ends the process", "hangs")
    print("| file | tries | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * (len(heads) + 1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # in a process of its own: what starts threads may not be forked afterwards
        if outcome(lambda: make(root)) != "read":
            raise SystemExit("the files cannot be written; make(root) says why")
        for name, (path, read) in kinds(root).items():
            if not name.startswith(chosen):
                continue
            if outcome(read) != "read":
                raise SystemExit(f"{name} cannot be read before it is changed")
            content, found = path.read_bytes(), Counter[str]()
            for changed in changes(content, tries, name):
                path.write_bytes(changed)
                found[outcome(read)] += 1
            path.write_bytes(content)
            print(f"| {name} | {tries} | " + " | ".join(str(found[head]) for head in heads) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, tuple(sys.argv[2:]) or ("",))
