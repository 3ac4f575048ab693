"""`relprop serve`: the app, on this machine alone unless `--host` says otherwise."""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from relprop.cli import console, options
from relprop.errors import UsageError, require

if TYPE_CHECKING:
    from collections.abc import Collection

    from relprop.models import LoadedModel

_MODEL, _SERVER = "Model", "Server"

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        rich_help_panel=_MODEL,
        help="As of the other commands; several times for several models to choose from.",
        show_default="efficientnet-lite0, which needs no network",
    ),
]
Host = Annotated[
    str, typer.Option(rich_help_panel=_SERVER, help="Address to listen on. Anything but loopback opens it to others.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, rich_help_panel=_SERVER, help="0 takes a free one.")]
MaxMegabytes = Annotated[
    float, typer.Option("--max-mb", min=0.01, rich_help_panel=_SERVER, help="Largest file that is accepted.")
]
MaxPixels = Annotated[
    float,
    typer.Option("--max-megapixels", min=0.001, rich_help_panel=_SERVER, help="Largest image, in million pixels."),
]
Queue = Annotated[int, typer.Option(min=1, rich_help_panel=_SERVER, help="Explanations that may wait; one runs.")]


def serve(
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    max_mb: MaxMegabytes = 12.0,
    max_megapixels: MaxPixels = 25.0,
    queue: Queue = 16,
    arch: options.Arch = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    device: options.Device = "auto",
    classes: options.Classes = None,
    trust: options.Trust = False,
) -> int:
    """Open the app: drop an image, choose a class and rules, see where the probability comes from.

    It listens on this machine alone unless --host says otherwise, keeps everything in memory, and opens no connection
    of its own.
    """
    uvicorn = require("uvicorn", "web")
    require("starlette", "web")
    from relprop.report import Workbench
    from relprop.web import Limits, make_app
    from relprop.web.app import LOOPBACK

    if len(model or ()) > 1 and any(given is not None for given in (arch, size, mean, std, classes)):
        raise UsageError("--arch, --size, --mean, --std and --classes describe one model; give one --model with them")
    place = options.choose_device(device)
    setups: dict[str, Workbench] = {}
    names: list[str | None] = [*model] if model else [None]
    for wanted in names:
        loaded = options.load(
            wanted, arch=arch, size=size, mean=mean, std=std, classes=classes, device=place, trust=trust
        )
        setups[_free_name(loaded, setups)] = Workbench(loaded, place)
    local = host in LOOPBACK
    limits = Limits(file_bytes=round(max_mb * 1e6), pixels=round(max_megapixels * 1e6), queue=queue)
    application = make_app(setups, limits, LOOPBACK if local else None)
    if not local:
        console.warn(
            f"listening on {host}: everybody who reaches this machine there can use the app, without a password"
        )
    settings = uvicorn.Config(
        application, host=host, port=port, log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=64, timeout_keep_alive=10, timeout_graceful_shutdown=3,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    sock = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    console.out.print(f"relprop serves {', '.join(setups)} at http://{shown}:{sock.getsockname()[1]}/", soft_wrap=True)
    console.err.print(f"[{console.QUIET}]Ctrl+C ends it[/]")
    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        server.run(sockets=[sock])
    return 0


def _free_name(loaded: LoadedModel, taken: Collection[str]) -> str:
    """Return the model's name, numbered if another has it."""
    names = (loaded.name if count == 1 else f"{loaded.name} ({count})" for count in itertools.count(1))
    return next(name for name in names if name not in taken)


def _listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host") from None
