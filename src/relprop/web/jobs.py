"""Uploaded images, a queue of jobs, one thread that computes, results. All of it is in memory and bounded."""

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
from relprop.web.request import ExplanationRequest, GoneError
from relprop.web.views import result_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

    from relprop.report import Study, Workbench
    from relprop.web.limits import Limits

State = Literal["waiting", "running", "done", "failed", "cancelled"]
log = logging.getLogger("relprop.web")
DEFECT = "an error inside relprop; the log of the server says more"


class BusyError(UsageError):
    """The queue is full."""


@dataclass(eq=False)
class Job:
    """One explanation that was asked for.

    Attributes:
        id: cannot be guessed; whoever knows it may see the result.
        request: what was asked for.
        state: whether it waits, runs or has ended, and how.
        progress: from 0 to 1, and `doing`, in words.
        error: why it failed.
        study, document: the result, and what the page shows of it.
    """

    request: ExplanationRequest
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = "waiting"
    progress: float = 0.0
    doing: str = ""
    error: str = ""
    study: Study | None = None
    document: dict[str, Any] | None = None


class JobQueue:
    """Keeps uploaded images, computes one job after the other, and keeps the results.

    Args:
        setups: the models that are served, by name.
        limits: how much is accepted and kept.
    """

    def __init__(self, setups: Mapping[str, Workbench], limits: Limits) -> None:
        self.setups, self.limits = setups, limits
        self._images: OrderedDict[str, bytes] = OrderedDict()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: deque[Job] = deque()
        self._change = threading.Condition()
        self._open = True
        threading.Thread(target=self._work, name="relprop-web", daemon=True).start()

    def add_image(self, content: bytes) -> tuple[str, Image]:
        """Keep an uploaded image. Returns its id, and the image.

        Raises:
            InputError: it cannot be read, or is too large.
        """
        image = decode(content, self.limits)
        name = secrets.token_urlsafe(16)
        with self._change:
            self._images[name] = content
            while len(self._images) > self.limits.images:
                self._images.popitem(last=False)
        return name, image

    def submit(self, request: ExplanationRequest) -> Job:
        """Put a request into the queue.

        Raises:
            GoneError: its image is not kept here.
            BusyError: too many wait.
        """
        self._content(request.image)
        job = Job(request)
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
            GoneError: there is none, or it is no longer kept.
        """
        with self._change:
            if name not in self._jobs:
                raise GoneError("this result is no longer kept; explain the image again")
            return self._jobs[name]

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue; one that runs already is finished."""
        with self._change:
            if job in self._queue:
                self._queue.remove(job)
                job.state = "cancelled"

    def status(self, job: Job) -> dict[str, Any]:
        """Return the state of a job as JSON values, with its result once it is done."""
        with self._change:
            before = self._queue.index(job) + 1 if job in self._queue else 0
            status = {"id": job.id, "state": job.state, "progress": job.progress, "doing": job.doing}
            if job.state == "waiting":
                status["doing"] = f"waiting, {before} before this one" if self._running() or before > 1 else "starting"
            if job.state == "failed":
                status["error"] = job.error
            if job.state == "done":
                status["result"] = job.document
            return status

    def close(self) -> None:
        """Let the thread end once it has finished its job."""
        with self._change:
            self._open = False
            self._change.notify_all()

    def _running(self) -> bool:
        return any(job.state == "running" for job in self._jobs.values())

    def _content(self, image: str) -> bytes | None:
        """Return an upload's bytes, None for a bundled photograph."""
        if image.startswith("sample:"):
            if image.removeprefix("sample:") not in demo.PHOTOGRAPHS:
                raise GoneError(f"there is no such photograph; there are {', '.join(demo.PHOTOGRAPHS)}")
            return None
        with self._change:
            if image not in self._images:
                raise GoneError("this image is no longer kept; upload it again")
            self._images.move_to_end(image)
            return self._images[image]

    def _work(self) -> None:
        """Compute one job after the other until the queue is closed."""
        while True:
            with self._change:
                while self._open and not self._queue:
                    self._change.wait()
                if not self._open:
                    return
                job = self._queue.popleft()
                job.state = "running"
            try:
                content = self._content(job.request.image)
                self._explain(job, content)
                job.state = "done"
            except RelpropError as error:
                job.error, job.state = clean(str(error)), "failed"
            except Exception:
                log.exception("an explanation failed")
                job.error, job.state = DEFECT, "failed"

    def _explain(self, job: Job, content: bytes | None) -> None:
        name = job.request.image.removeprefix("sample:") if content is None else "image"
        image = demo.photograph(name) if content is None else decode(content, self.limits)

        def progress(done: float, doing: str) -> None:
            job.progress, job.doing = done, doing

        request = job.request
        job.study = self.setups[request.model].study(
            name, image, target=request.target, against=request.against, composite=request.composite,
            methods=request.baselines, tell=progress,
        )  # fmt: skip
        job.document = result_document(job.study, request.levels, request.smooth)
        job.progress = 1.0


def decode(content: bytes, limits: Limits) -> Image:
    """Read an uploaded image.

    Raises:
        InputError: it is no image, is damaged, or has too many pixels.
    """
    pixels = _claimed_pixels(content)  # before anything is decoded
    if pixels > limits.pixels:
        raise InputError(
            f"the image has {pixels / 1e6:.0f} million pixels; at most {limits.pixels / 1e6:g} million are accepted, "
            "and the network sees far fewer: make it smaller"
        )
    try:
        return read_image(content)
    except InputError as error:
        raise InputError(clean(str(error))) from None


def _claimed_pixels(content: bytes) -> int:
    """Pixels that the header of an image claims; 0 where it cannot be read, since `read_image` then says why."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # damaged headers raise nearly anything
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as header:
            return header.width * header.height
    return 0


def clean(sentence: str) -> str:
    """Replace what a message says of this machine: objects in memory, and folders."""
    return re.sub(r"<[^<>]*>|(?<![\w.])/[\w.-]+(?:/[\w.-]+)+", "...", sentence)
