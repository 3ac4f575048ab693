"""Uploaded images, a queue of jobs, one thread that computes, results. All of it is in memory and bounded."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import secrets
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import PIL.Image
from PIL.Image import Image
from torch.overrides import TorchFunctionMode

from relprop.errors import InputError, RelpropError, UsageError
from relprop.images import read_image
from relprop.images.read import FORMATS, read_file
from relprop.sessions import Comparison, Session, stages
from relprop.web.pace import Pace
from relprop.web.request import ExplanationRequest, GoneError, Limits
from relprop.web.views import result_document

State = Literal["waiting", "running", "done", "failed", "cancelled"]
log = logging.getLogger("relprop.web")
DEFECT = "an error inside relprop; the log of the server says more"
SHUTTING_DOWN = "the server is shutting down"
UNASKED = "this explanation was stopped, since no client asked for it; ask for it again"


class BusyError(UsageError):
    """The queue is full, or closed."""


class StoppedError(BaseException):
    """Nobody waits for the result of a job any more. No Exception: explainers catch those of other libraries."""


class _CheckBeforeOperations(TorchFunctionMode):
    """Calls a function before each operation of torch in this thread, so that what it raises ends the computation."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self.check = check

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.check()
        return func(*args, **(kwargs or {}))


@dataclass(eq=False)
class Job:
    """One explanation that was asked for; times are those of the monotonic clock."""

    request: ExplanationRequest
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # whoever knows it may see the result
    state: State = "waiting"
    stage: int = 0  # the number of the one that is done now
    begun: float = 0.0
    since: float = 0.0  # when its stage began
    error: str = ""  # why it failed, or was cancelled
    asked: float = field(default_factory=time.monotonic)  # when a client last asked for it
    version: int = 0  # grows with each change of state and stage
    comparison: Comparison | None = None
    document: dict[str, Any] | None = None  # what the page shows of the comparison

    @property
    def ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state not in ("waiting", "running")

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all that is done, one after the other."""
        return stages(self.request.methods)

    def set(self, state: State, error: str = "") -> None:
        """Change the state."""
        self.state, self.error = state, error
        self.version += 1

    def begin(self, stage: int) -> None:
        """Begin a stage."""
        self.stage, self.since = stage, time.monotonic()
        self.begun = self.begun or self.since
        self.version += 1


class JobQueue:
    """Keeps uploaded images, computes one job after the other, and keeps the results.

    Args:
        setups: the models that are served, by name.
        limits: how much is accepted and kept.
        images: files that clients can choose without sending them, by name.
    """

    def __init__(self, setups: Mapping[str, Session], limits: Limits, images: Mapping[str, Path]) -> None:
        self.setups, self.limits, self.images = setups, limits, images
        self._pace = Pace()
        self._images: OrderedDict[str, bytes] = OrderedDict()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: deque[Job] = deque()
        self._change = threading.Condition()
        self.closed = False
        self._thread = threading.Thread(target=self._work, name="relprop-web", daemon=True)
        self._thread.start()

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

    def read(self, image: str) -> Image:
        """Read an image: "sample:NAME", or the id of an upload.

        Raises:
            GoneError: it is not kept here.
            InputError: it cannot be read, or is too large.
        """
        kept = self._kept(image)
        if isinstance(kept, bytes):
            return decode(kept, self.limits)
        try:
            return decode(read_file(kept), self.limits)
        except InputError as error:
            raise InputError(str(error).replace(str(kept), kept.name)) from None  # folders are nobody's business

    def submit(self, request: ExplanationRequest) -> Job:
        """Put a request into the queue.

        Raises:
            GoneError: its image is not kept here.
            BusyError: too many wait.
        """
        self._kept(request.image)
        job = Job(request)
        with self._change:
            if self.closed:
                raise BusyError(SHUTTING_DOWN)
            self._cancel_unasked()
            if len(self._queue) >= self.limits.queue:
                raise BusyError(f"{len(self._queue)} explanations wait already; try again in a minute")
            self._queue.append(job)
            self._jobs[job.id] = job
            for old in [one for one in self._jobs.values() if one.ended]:
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

    def cancel(self, job: Job, reason: str = "this explanation was cancelled") -> None:
        """End a job: one that waits leaves the queue, one that runs stops before its next operation."""
        with self._change:
            if job in self._queue:
                self._queue.remove(job)
            if not job.ended:
                job.set("cancelled", reason)

    def status(self, job: Job) -> dict[str, Any]:
        """Return the state of a job as JSON values, with its result once it is done."""
        with self._change:
            job.asked = time.monotonic()
            status: dict[str, Any] = {"id": job.id, "state": job.state, "version": job.version, "progress": 0.0}
            if job.state == "waiting":
                before = self._queue.index(job) + 1 if job in self._queue else 0
                running = any(one.state == "running" for one in self._jobs.values())
                status["doing"] = f"waiting, {before} before this one" if running or before > 1 else "starting"
            if job.state == "running":
                status |= self._progress(job)
            if job.error:
                status["error"] = job.error
            if job.state == "done":
                status["result"] = job.document
            return status

    def _progress(self, job: Job) -> dict[str, Any]:
        """Say which stage of how many a job is at, its share that is done, and the seconds that it will still take."""
        now, names = time.monotonic(), job.stages
        left = self._pace.left(job.request.model, names[job.stage :], now - job.since)
        spent = now - job.begun
        share = job.stage / len(names) if left is None else spent / ((spent + left) or 1.0)
        return {
            "doing": names[job.stage],
            "stage": job.stage + 1,
            "stages": len(names),
            "progress": share,
            "left": left,
        }

    def shut_down(self) -> None:
        """Accept no more requests, and end all jobs with a message."""
        with self._change:
            self.closed = True
            for job in self._jobs.values():
                if not job.ended:
                    job.set("failed", SHUTTING_DOWN)
            self._queue.clear()
            self._change.notify_all()

    def close(self, seconds: float = 10.0) -> bool:
        """Shut down and wait for the thread. Returns whether it has ended: one operation may take longer."""
        self.shut_down()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _unasked(self, job: Job) -> bool:
        return time.monotonic() - job.asked > self.limits.unasked_seconds

    def _cancel_unasked(self) -> None:
        """Cancel waiting jobs that no client has asked for lately: it has gone, and others wait."""
        for job in [job for job in self._queue if self._unasked(job)]:
            self.cancel(job, UNASKED)

    def _kept(self, image: str) -> bytes | Path:
        """Return the bytes of an upload, or the file that a name stands for."""
        if image.startswith("sample:"):
            found = self.images.get(image.removeprefix("sample:"))
            if found is None:
                raise GoneError("there is no such image here; choose another one")
            return found
        with self._change:
            if image not in self._images:
                raise GoneError("this image is no longer kept; upload it again")
            self._images.move_to_end(image)
            return self._images[image]

    def _work(self) -> None:
        """Compute one job after the other until the queue is closed."""
        while (job := self._next()) is not None:
            try:
                comparison, document = self._explain(job)
                with self._change:
                    if not job.ended:
                        job.comparison, job.document = comparison, document
                        job.set("done")
            except StoppedError:
                self.cancel(job, UNASKED)
            except RelpropError as error:
                self._fail(job, clean(str(error)))
            except Exception:
                log.exception("an explanation failed")
                self._fail(job, DEFECT)

    def _next(self) -> Job | None:
        """Wait for the next job; None once the queue is closed."""
        with self._change:
            while not self.closed:
                self._cancel_unasked()
                if self._queue:
                    job = self._queue.popleft()
                    job.set("running")
                    job.begin(0)
                    return job
                self._change.wait()
        return None

    def _fail(self, job: Job, error: str) -> None:
        with self._change:
            if not job.ended:
                job.set("failed", error)

    def _explain(self, job: Job) -> tuple[Comparison, dict[str, Any]]:
        """Compute the result of a job."""
        request = job.request
        image = self.read(request.image)
        name = request.image.removeprefix("sample:") if request.image.startswith("sample:") else "image"

        def check() -> None:
            if job.ended or self._unasked(job):
                raise StoppedError

        def progress(done: float, doing: str) -> None:
            check()
            if doing != job.stages[0]:
                self._end_stage(job)

        with _CheckBeforeOperations(check):
            comparison = self.setups[request.model].explain(
                name, image, target=request.target, against=request.against, composite=request.composite,
                methods=request.methods, progress=progress,
            )  # fmt: skip
            document = result_document(comparison, request.levels, request.smooth)
        self._end_stage(job)
        return comparison, document

    def _end_stage(self, job: Job) -> None:
        """Note how long a stage took, and begin the next one if there is one."""
        with self._change:
            self._pace.note(job.request.model, job.stages[job.stage], time.monotonic() - job.since)
            if not job.ended and job.stage + 1 < len(job.stages):
                job.begin(job.stage + 1)


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
