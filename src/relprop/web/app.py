"""The ASGI application: a few routes, none of which makes a path of what a client sends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relprop import demo
from relprop.errors import RelpropError, UsageError
from relprop.report.of_comparisons import report_of_comparisons
from relprop.report.render import TEMPLATES, render
from relprop.sessions import Comparison, Session
from relprop.web import views
from relprop.web.jobs import DEFECT, SHUTTING_DOWN, BusyError, Job, JobQueue, clean
from relprop.web.request import ExplanationRequest, GoneError, Limits, choices, read_request
from relprop.web.security import AccessCheck

PAGE = Path(__file__).parent / "page"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_REQUEST_BYTES = 4096
_HOLD_SECONDS = 2.0


def make_app(
    setups: Mapping[str, Session],
    limits: Limits | None = None,
    hosts: Collection[str] | None = LOOPBACK,
    token: str = "",
    images: Mapping[str, Path] | None = None,
) -> Starlette:
    """Make the application.

    Args:
        setups: the models to serve, by name; the first is the default.
        limits: how much a client may ask for.
        hosts: values of the Host header that are accepted, so that no website can let a name of its own lead to this
            server; None for any.
        token: what clients have to present, as `?token=` at first and as a cookie then; empty for no token.
        images: files to choose from, by the name that is shown; None for the bundled photographs.

    Returns:
        The application; `state.jobs` is its job queue, which is closed with the application.
    """
    limits = limits or Limits()
    bundled = {name: demo.ASSETS / f"{name}.jpg" for name in demo.PHOTOGRAPHS}
    queue = JobQueue(setups, limits, bundled if images is None else images)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        queue.close()

    app = Starlette(
        routes=[*_fixed(), *_Api(queue, limits).routes()],
        middleware=[Middleware(AccessCheck, hosts=hosts, token=token)],
        exception_handlers={
            RelpropError: _relprop_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_left,
            Exception: _defect,
        },
        lifespan=lifespan,
    )
    app.state.jobs = queue
    return app


def _fixed() -> list[Route]:
    """The page, its style and scripts: read once, served from memory."""
    style = (TEMPLATES / "tokens.css").read_bytes() + (PAGE / "app.css").read_bytes()
    files = {
        "/": ((PAGE / "index.html").read_bytes(), "text/html; charset=utf-8"),
        "/app.css": (style, "text/css; charset=utf-8"),
        **{f"/{path.name}": (path.read_bytes(), "text/javascript; charset=utf-8") for path in PAGE.glob("*.js")},
    }

    def route(content: bytes, kind: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    return [Route(path, route(*file)) for path, file in files.items()]


def _heatmap(at: int, comparison: Comparison, request: ExplanationRequest) -> bytes:
    found = comparison.maps[at]
    if found.heatmap is None:
        raise GoneError(f"{found.name} has no map here: {found.error}")
    return views.heatmap_npy(found.heatmap)


def _report(comparison: Comparison, request: ExplanationRequest) -> bytes:
    return render(report_of_comparisons([comparison], ["relprop serve"])).encode()


_BINARY = "application/octet-stream"
FILES: Mapping[str, tuple[str, Callable[[Comparison, ExplanationRequest], bytes]]] = {
    "relevance.png": ("image/png", lambda comparison, asked: views.figure(comparison, asked.levels, asked.smooth)),
    **{name: (_BINARY, partial(_heatmap, at)) for at, name in enumerate(views.HEATMAPS)},
    "relevance.npz": (_BINARY, lambda comparison, _: views.relevance_npz(comparison)),
    "report.html": ("text/html; charset=utf-8", _report),
}
"""Files that can be downloaded of a finished job: their kind, and how each is made."""


class _Api:
    """The routes that compute, or change something."""

    def __init__(self, queue: JobQueue, limits: Limits) -> None:
        self.queue, self.limits = queue, limits
        self._uploads = asyncio.Semaphore(limits.uploads)
        self._decoding = asyncio.Semaphore(limits.decoders)
        self._drawing = asyncio.Semaphore(1)

    def routes(self) -> list[Route]:
        """All of them; each file that can be downloaded has a route of its own."""
        job = "/api/jobs/{id:str}"
        return [
            Route("/api/choices", self.choices),
            Route("/api/images", self.upload, methods=["POST"]),
            Route("/api/images/{name:str}.jpg", self.thumbnail),
            Route("/api/jobs", self.submit, methods=["POST"]),
            Route(job, self.status),
            Route(job, self.cancel, methods=["DELETE"]),
            *(Route(f"{job}/{name}", self._file(kind, make)) for name, (kind, make) in FILES.items()),
        ]

    async def choices(self, request: Request) -> Response:
        """What a request may hold."""
        limits = {"file_bytes": self.limits.file_bytes, "pixels": self.limits.pixels}
        return JSONResponse(choices(self.queue.setups, self.queue.images) | {"limits": limits})

    async def upload(self, request: Request) -> Response:
        """Receive an image: the body is the file itself, so that it comes without a name."""
        if self._uploads.locked():
            raise BusyError(f"{self.limits.uploads} images are being received already; try again in a few seconds")
        async with self._uploads:
            content = await _body(request, self.limits.file_bytes)
            async with self._decoding:
                name, image = await run_in_threadpool(self.queue.add_image, content)
        return JSONResponse({"id": name, "width": image.width, "height": image.height})

    async def thumbnail(self, request: Request) -> Response:
        """Show one of the images that can be chosen, small."""
        async with self._decoding:
            image = await run_in_threadpool(self.queue.read, f"sample:{request.path_params['name']}")
            return Response(await run_in_threadpool(views.thumbnail, image), media_type="image/jpeg")

    async def submit(self, request: Request) -> Response:
        """Put a request into the queue."""
        body = await _body(request, _REQUEST_BYTES)
        try:
            plain = json.loads(body)
        except (ValueError, RecursionError):
            raise UsageError("a request is one JSON object") from None
        job = self.queue.submit(read_request(plain, self.queue.setups))
        return JSONResponse(self.queue.status(job), status_code=202)

    async def status(self, request: Request) -> Response:
        """State of a job, with its result once it is done. `?after=VERSION` waits a moment for a later version."""
        job, after = self._job(request), request.query_params.get("after", "")
        end = time.monotonic() + _HOLD_SECONDS
        while str(job.version) == after and time.monotonic() < end:
            job.asked = time.monotonic()
            await asyncio.sleep(0.05)
            if await request.is_disconnected():
                raise ClientDisconnect
        return JSONResponse(self.queue.status(job))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        job = self._job(request)
        self.queue.cancel(job)
        return JSONResponse(self.queue.status(job))

    def _job(self, request: Request) -> Job:
        return self.queue.find(request.path_params["id"])

    def _file(self, kind: str, make: Callable[[Comparison, ExplanationRequest], bytes]) -> Callable[[Request], Any]:
        """Answer with a file made of a finished comparison."""

        async def answer(request: Request) -> Response:
            job = self._job(request)
            if job.state != "done" or job.comparison is None:
                raise GoneError("this explanation is not done")
            async with self._drawing:
                if await request.is_disconnected():
                    raise ClientDisconnect
                if self.queue.closed:
                    raise BusyError(SHUTTING_DOWN)
                content = await run_in_threadpool(make, job.comparison, job.request)
            name = f"relprop-{job.comparison.name}-{request.url.path.rpartition('/')[2]}"
            return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

        return answer


async def _body(request: Request, limit: int) -> bytes:
    """Read the body of a request; stop where it is too long. The server (`relprop.web.server`) bounds the time."""
    too_long = HTTPException(413, f"this is larger than {limit / 1e6:g} MB, which is the limit; make it smaller")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_long
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise too_long
    return bytes(content)


async def _client_left(request: Request, error: Exception) -> Response:
    """The client closed its connection: nobody reads the response, and the log needs no traceback."""
    return Response(status_code=499)


async def _relprop_error(request: Request, error: Exception) -> Response:
    """An error of relprop: its message."""
    code = 503 if isinstance(error, BusyError) else 404 if isinstance(error, GoneError) else 422
    return JSONResponse({"error": clean(str(error))}, status_code=code)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for it alone
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    """Anything else: the client learns nothing of it; the traceback goes to the log of the server."""
    return JSONResponse({"error": DEFECT}, status_code=500)
