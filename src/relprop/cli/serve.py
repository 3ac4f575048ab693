"""`relprop serve`: the app, on this machine alone unless `--host` says otherwise."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import re
import secrets
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli import INTERRUPTED, batches, console, options
from relprop.documents import text_of
from relprop.errors import UsageError, require

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from relprop.models import LoadedModel
    from relprop.sessions import Session
    from relprop.web.server import Server

_server = partial(typer.Option, rich_help_panel="Server")

Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="IMAGES...",
        help="Images or folders of images to choose from on the page; none for the bundled photographs.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        rich_help_panel="Model",
        help="As of the other commands; several times for several models to choose from.",
        show_default="efficientnet-lite0, which needs no network",
    ),
]
Host = Annotated[
    str,
    _server(
        help="Address to listen on. On any but loopback, others can reach the app, and need the token that is printed."
    ),
]
AllowHost = Annotated[
    list[str] | None,
    _server(
        "--allow-host",
        help="A further name under which browsers may call the app, that of a proxy, say; several times for several.",
    ),
]
Port = Annotated[int, _server(min=0, max=65535, help="0 takes a free one.")]
MaxMegabytes = Annotated[float, _server("--max-mb", min=0.01, help="Largest file that is accepted.")]
MaxPixels = Annotated[float, _server("--max-megapixels", min=0.001, help="Largest image, in million pixels.")]
Queue = Annotated[int, _server(min=1, help="Explanations that may wait; one runs.")]


def serve(
    images: Images = None,
    *,
    model: Models = None,
    recursive: options.Recursive = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    max_mb: MaxMegabytes = 12.0,
    max_megapixels: MaxPixels = 25.0,
    queue: Queue = 16,
    network: options.Network,
    classes: options.Classes = None,
) -> int:
    """Open the app: drop an image, choose a class, see where its probability comes from, and what a part of it holds.

    It listens on this machine alone unless --host says otherwise, keeps everything in memory, and opens no connection
    of its own.
    """
    require("uvicorn", "web")
    require("starlette", "web")
    if len(model or ()) > 1 and (classes is not None or network.described):
        raise UsageError(
            "--arch, --size, --mean, --std, --multi-label and --classes describe one model; give one --model with them"
        )
    names = {_host_name(name) for name in allow_host or ()}
    found = batches.find_items(images, recursive=recursive) if images else []
    files = {text_of(item.name): item.source for item in found if item.source is not None} or None
    with _listen(host, port) as listening:  # first, since loading a model takes longer
        from relprop.sessions import Session
        from relprop.web import Limits, make_app
        from relprop.web.app import LOOPBACK
        from relprop.web.server import Server

        device = network.chosen_device()
        setups: dict[str, Session] = {}
        wanted: list[str | None] = [*model] if model else [None]
        for name in wanted:
            loaded = network.load(name, classes)
            setups[_free_name(loaded, setups)] = Session(loaded, device)
        address = ipaddress.ip_address(listening.getsockname()[0])
        token = "" if address.is_loopback else secrets.token_urlsafe(24)
        shown = [socket.gethostname(), "127.0.0.1"] if address.is_unspecified else [host]
        limits = Limits(file_bytes=round(max_mb * 1e6), pixels=round(max_megapixels * 1e6), queue=queue)
        hosts = LOOPBACK | names | {name.lower() for name in (*shown, str(address))}
        server = Server(make_app(setups, limits, hosts, token, files), limits.receive_seconds)
        if token:
            console.warn(
                f"others can reach {host}: give the address below, which holds a token, to those who may use the app. "
                "The connection is not encrypted"
            )
        links = [_link(name, listening.getsockname()[1], token) for name in shown]
        console.out.print(console.escape(f"relprop serves {', '.join(setups)} at {' or '.join(links)}"), soft_wrap=True)
        console.err.print(f"[{console.QUIET}]Ctrl+C ends it[/]")
        return _run(server, listening)


def _run(server: Server, listening: socket.socket) -> int:
    """Serve until Ctrl+C raises KeyboardInterrupt, once all clients were answered and the computation has stopped."""
    try:
        server.run(sockets=[listening])
    finally:
        with _uninterrupted():
            if not server.jobs.close(1.0):  # the application has waited longer already
                # Python would end while a thread is inside an operation of torch, which then aborts the process.
                console.fail("the explanation that was running did not stop in time")
                os._exit(INTERRUPTED)
    return 0


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore a further Ctrl+C for the moment that the end takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _link(name: str, port: int, token: str) -> str:
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def _free_name(loaded: LoadedModel, taken: Collection[str]) -> str:
    """Return the model's name, numbered if another has it."""
    names = (loaded.name if count == 1 else f"{loaded.name} ({count})" for count in itertools.count(1))
    return next(name for name in names if name not in taken)


def _host_name(name: str) -> str:
    """Check a value of --allow-host."""
    if re.fullmatch(r"[\w.-]+", name, re.ASCII):
        return name.lower()
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        raise UsageError(
            f"--allow-host takes a name or an address, without http:// and port, not {name!r}; give it again for others"
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    """Open the port."""
    if not host.strip():
        raise UsageError("--host is empty; give 127.0.0.1 for this machine alone, or 0.0.0.0 for all its addresses")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, ValueError) as error:  # ValueError: names that cannot be encoded
        reason = getattr(error, "strerror", None) or str(error)
        reason = reason.split(" (while attempting")[0]
        raise UsageError(f"cannot listen on {host!r}, port {port}: {reason}; choose another --port or --host") from None
    if not ipaddress.ip_address(listening.getsockname()[0]).is_unspecified:
        try:  # broadcast and multicast addresses can be listened on, but not be reached
            socket.create_connection(listening.getsockname()[:2], 2).close()
        except OSError as error:
            listening.close()
            reason = error.strerror or str(error)
            raise UsageError(f"{host!r} cannot be reached: {reason}; choose another --host") from None
    return listening
