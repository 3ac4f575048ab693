"""The ASGI application: few routes, none of which turns what a client sends into a path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relprop import demo
from relprop.errors import RelpropError, UsageError
from relprop.report import render, report_of_studies
from relprop.report.render import TEMPLATES
from relprop.web import views
from relprop.web.desk import DEFECT, BusyError, Desk, clean
from relprop.web.guard import Guard
from relprop.web.limits import Limits
from relprop.web.wish import GoneError, offers, read_wish

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from starlette.requests import Request

    from relprop.report import Study, Workbench
    from relprop.web.desk import Job
    from relprop.web.wish import Wish

PAGE = Path(__file__).parent / "page"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_WISH_BYTES = 4096


def make_app(
    benches: Mapping[str, Workbench], limits: Limits | None = None, hosts: Collection[str] | None = LOOPBACK
) -> Starlette:
    """Make the application.

    Args:
        benches: the models to serve, by name; the first is the default.
        limits: how much a client may ask for.
        hosts: names under which it may be called, so that no web page elsewhere can have one of its own point here;
            None for any.
    """
    limits = limits or Limits()
    desk = Desk(benches, limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

    return Starlette(
        routes=[*_fixed(), *_Api(desk, limits).routes()],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={RelpropError: _refuse, HTTPException: _http, Exception: _defect},
        lifespan=lifespan,
    )


def _fixed() -> list[Route]:
    """The page, its style and script, the bundled photographs: read once, served from memory."""
    style = (TEMPLATES / "tokens.css").read_text("utf-8") + (PAGE / "app.css").read_text("utf-8")
    files = {
        "/": ((PAGE / "index.html").read_bytes(), "text/html; charset=utf-8"),
        "/app.css": (style.encode(), "text/css; charset=utf-8"),
        "/app.js": ((PAGE / "app.js").read_bytes(), "text/javascript; charset=utf-8"),
        **{f"/{name}.jpg": ((demo.ASSETS / f"{name}.jpg").read_bytes(), "image/jpeg") for name in demo.PHOTOGRAPHS},
    }

    def give(content: bytes, kind: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    return [Route(path, give(*file)) for path, file in files.items()]


class _Api:
    """The routes that do something."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self.desk, self.limits = desk, limits
        self._uploads = asyncio.Semaphore(limits.uploads)
        self._drawing = asyncio.Semaphore(1)

    def routes(self) -> list[Route]:
        """All of them; each file that can be taken away has a route of its own."""
        job = "/api/jobs/{id:str}"
        return [
            Route("/api/offers", self.offers),
            Route("/api/pictures", self.upload, methods=["POST"]),
            Route("/api/jobs", self.wish, methods=["POST"]),
            Route(job, self.status),
            Route(job, self.cancel, methods=["DELETE"]),
            Route(f"{job}/relevance.png", self._file("image/png", lambda s, w: views.figure(s, w.levels, w.smooth))),
            Route(f"{job}/heatmap.npy", self._file("application/octet-stream", lambda s, w: views.heatmap_npy(s))),
            Route(f"{job}/relevance.npz", self._file("application/octet-stream", lambda s, w: views.relevance_npz(s))),
            Route(f"{job}/report.html", self._file("text/html; charset=utf-8", lambda s, w: _report(s))),
        ]

    async def offers(self, request: Request) -> Response:
        """What can be wished for."""
        limits = {"file_bytes": self.limits.file_bytes, "pixels": self.limits.pixels}
        return JSONResponse(offers(self.desk.benches) | {"limits": limits})

    async def upload(self, request: Request) -> Response:
        """Take a picture: the body is the file itself, so that it comes without a name."""
        async with self._uploads:
            content = await _body(request, self.limits.file_bytes, self.limits.upload_seconds)
            name, picture = await run_in_threadpool(self.desk.take_picture, content)
        return JSONResponse({"id": name, "width": picture.width, "height": picture.height})

    async def wish(self, request: Request) -> Response:
        """Take a wish."""
        body = await _body(request, _WISH_BYTES, self.limits.upload_seconds)
        try:
            plain = json.loads(body)
        except (ValueError, RecursionError):
            raise UsageError("a wish is one JSON object") from None
        job = self.desk.take(read_wish(plain, self.desk.benches))
        return JSONResponse(self.desk.status(job), status_code=202)

    async def status(self, request: Request) -> Response:
        """Where a wish is."""
        return JSONResponse(self.desk.status(self._job(request)))

    async def cancel(self, request: Request) -> Response:
        """Take a wish back."""
        job = self._job(request)
        self.desk.cancel(job)
        return JSONResponse(self.desk.status(job))

    def _job(self, request: Request) -> Job:
        return self.desk.find(request.path_params["id"])

    def _file(self, kind: str, make: Callable[[Study, Wish], bytes]) -> Callable[[Request], Any]:
        """Answer with a file made of a finished study."""

        async def answer(request: Request) -> Response:
            job = self._job(request)
            if job.state != "done" or job.study is None:
                raise GoneError("this explanation is not done")
            async with self._drawing:
                content = await run_in_threadpool(make, job.study, job.wish)
            name = f"relprop-{job.study.name}-{request.url.path.rpartition('/')[2]}"
            return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

        return answer


def _report(study: Study) -> bytes:
    return render(report_of_studies([study], ["relprop serve"])).encode()


async def _body(request: Request, limit: int, seconds: float) -> bytes:
    """Read a request's body, and stop where it is too long or takes too long."""
    too_long = HTTPException(413, f"this is larger than {limit / 1e6:g} MB, which is the limit; make it smaller")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                content += part
                if len(content) > limit:
                    raise too_long
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {seconds:g} seconds") from None
    return bytes(content)


async def _refuse(request: Request, error: Exception) -> Response:
    """An error of ours: its sentence."""
    code = 503 if isinstance(error, BusyError) else 404 if isinstance(error, GoneError) else 422
    return JSONResponse({"error": clean(str(error))}, status_code=code)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for it alone
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    """Anything else: nothing about it, to the client; the traceback goes to the server's log."""
    return JSONResponse({"error": DEFECT}, status_code=500)
