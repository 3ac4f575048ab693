"""The desk: uploads, wishes in a queue, one worker, results. Everything is in memory, and all of it is bounded."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import secrets
import threading
import warnings
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import PIL.Image

from relprop import demo
from relprop.errors import InputError, RelpropError, UsageError
from relprop.images import read_image
from relprop.images.read import FORMATS
from relprop.web.views import result_document
from relprop.web.wish import GoneError, Wish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

    from relprop.report import Study, Workbench
    from relprop.web.limits import Limits

State = Literal["waiting", "running", "done", "failed", "cancelled"]
log = logging.getLogger("relprop.web")
DEFECT = "this went wrong inside relprop; whoever runs the server finds why in its log"


class BusyError(UsageError):
    """The queue is full."""


@dataclass(eq=False)
class Job:
    """One wish on its way.

    Attributes:
        id: unguessable; whoever knows it may see the result.
        wish: what was asked for.
        state: where it is.
        progress: from 0 to 1, and `doing`, in words.
        error: why it failed.
        study, document: what came of it, and what the page shows of that.
    """

    wish: Wish
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = "waiting"
    progress: float = 0.0
    doing: str = ""
    error: str = ""
    study: Study | None = None
    document: dict[str, Any] | None = None


class Desk:
    """Takes pictures and wishes, and hands out results.

    Args:
        benches: the models that are served, by name.
        limits: how much is taken and kept.
    """

    def __init__(self, benches: Mapping[str, Workbench], limits: Limits) -> None:
        self.benches, self.limits = benches, limits
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: deque[Job] = deque()
        self._change = threading.Condition()
        self._open = True
        threading.Thread(target=self._work, name="relprop-web", daemon=True).start()

    def take_picture(self, content: bytes) -> tuple[str, Image]:
        """Keep an uploaded picture if it is one: its id, and the picture.

        Raises:
            InputError: it is none, or too large.
        """
        picture = decode(content, self.limits)
        name = secrets.token_urlsafe(16)
        with self._change:
            self._pictures[name] = content
            while len(self._pictures) > self.limits.pictures:
                self._pictures.popitem(last=False)
        return name, picture

    def take(self, wish: Wish) -> Job:
        """Put a wish into the queue.

        Raises:
            GoneError: its picture is not here.
            BusyError: too many wait.
        """
        self._content(wish.picture)
        job = Job(wish)
        with self._change:
            if len(self._queue) >= self.limits.queue:
                raise BusyError(f"{len(self._queue)} explanations wait already; try again in a minute")
            self._queue.append(job)
            self._jobs[job.id] = job
            for old in [one for one in self._jobs.values() if one.state not in ("waiting", "running")]:
                if len(self._jobs) <= self.limits.jobs + self.limits.queue:
                    break
                del self._jobs[old.id]
            self._change.notify()
        return job

    def find(self, name: str) -> Job:
        """Return a job by its id.

        Raises:
            GoneError: there is none, or no longer.
        """
        with self._change:
            if name not in self._jobs:
                raise GoneError("this result is not here any more; explain the picture again")
            return self._jobs[name]

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue; one that runs already is finished."""
        with self._change:
            if job in self._queue:
                self._queue.remove(job)
                job.state = "cancelled"

    def status(self, job: Job) -> dict[str, Any]:
        """Say where a job is, and what came of it."""
        with self._change:
            before = self._queue.index(job) + 1 if job in self._queue else 0  # the one that is running, too
            status = {"id": job.id, "state": job.state, "progress": job.progress, "doing": job.doing}
            if job.state == "waiting":
                status["doing"] = f"waiting, {before} before this one" if self._running() or before > 1 else "starting"
            if job.state == "failed":
                status["error"] = job.error
            if job.state == "done":
                status["result"] = job.document
            return status

    def close(self) -> None:
        """Let the worker end when it is done with what it does."""
        with self._change:
            self._open = False
            self._change.notify_all()

    def _running(self) -> bool:
        return any(job.state == "running" for job in self._jobs.values())

    def _content(self, picture: str) -> bytes | None:
        """Return an upload's bytes, None for a bundled photograph."""
        if picture.startswith("sample:"):
            if picture.removeprefix("sample:") not in demo.PHOTOGRAPHS:
                raise GoneError(f"there is no such photograph; there are {', '.join(demo.PHOTOGRAPHS)}")
            return None
        with self._change:
            if picture not in self._pictures:
                raise GoneError("this picture is not here any more; upload it again")
            self._pictures.move_to_end(picture)
            return self._pictures[picture]

    def _work(self) -> None:
        """Do one job after the other, for as long as the desk is open."""
        while True:
            with self._change:
                while self._open and not self._queue:
                    self._change.wait()
                if not self._open:
                    return
                job = self._queue.popleft()
                job.state = "running"
            try:
                content = self._content(job.wish.picture)
                self._explain(job, content)
                job.state = "done"
            except RelpropError as error:
                job.error, job.state = clean(str(error)), "failed"
            except Exception:
                log.exception("an explanation failed")
                job.error, job.state = DEFECT, "failed"

    def _explain(self, job: Job, content: bytes | None) -> None:
        name = job.wish.picture.removeprefix("sample:") if content is None else "picture"
        picture = demo.photograph(name) if content is None else decode(content, self.limits)

        def tell(done: float, doing: str) -> None:
            job.progress, job.doing = done, doing

        wish = job.wish
        job.study = self.benches[wish.model].study(
            name, picture, target=wish.target, against=wish.against, composite=wish.composite,
            methods=wish.baselines, tell=tell,
        )  # fmt: skip
        job.document = result_document(job.study, wish.levels, wish.smooth)
        job.progress = 1.0


def decode(content: bytes, limits: Limits) -> Image:
    """Read an uploaded picture.

    Raises:
        InputError: it is no picture, is damaged, or has too many pixels.
    """
    pixels = _claimed_pixels(content)  # before anything is decoded
    if pixels > limits.pixels:
        raise InputError(
            f"the picture has {pixels / 1e6:.0f} million pixels; at most {limits.pixels / 1e6:g} million are taken, "
            "and the network sees far fewer: make it smaller"
        )
    try:
        return read_image(content)
    except InputError as error:
        raise InputError(clean(str(error))) from None


def _claimed_pixels(content: bytes) -> int:
    """Pixels that a picture's header claims; 0 where it cannot be read, since `read_image` will say why."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # damaged headers raise nearly anything
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as header:
            return header.width * header.height
    return 0


def clean(sentence: str) -> str:
    """Leave out of a sentence what tells of this machine: objects in memory, and folders."""
    return re.sub(r"<[^<>]*>|(?<![\w.])/[\w.-]+(?:/[\w.-]+)+", "...", sentence)
