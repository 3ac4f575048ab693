"""The HTTP server: uvicorn, with time-outs for slow clients and an end that answers everybody."""

from __future__ import annotations

import asyncio
import json
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from relprop.web.jobs import SHUTTING_DOWN
from relprop.web.security import HEADERS


class Server(uvicorn.Server):
    """Serves the application of `make_app`.

    Args:
        app: the application.
        seconds: in which the header of a request has to arrive, and then its body; also how long a connection may stay
            idle, and a client may leave a response unread.
        connections: that are kept at the same time; beyond, the one that waits longest for its client is closed.
    """

    def __init__(self, app: Starlette, seconds: int = 10, connections: int = 64) -> None:
        super().__init__(
            uvicorn.Config(
                app, http=_TimedProtocol, ws="none", log_level="error", access_log=False, server_header=False,
                proxy_headers=False, limit_concurrency=connections, timeout_keep_alive=seconds,
                timeout_graceful_shutdown=3,
            )
        )  # fmt: skip
        self.jobs = app.state.jobs

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down at the first signal. That takes a bounded time, which further signals do not shorten."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all jobs first, so that whoever waits for one is answered; then close connections."""
        self.jobs.shut_down()
        await super().shutdown(sockets)


class _TimedProtocol(H11Protocol):
    """One connection, with a timer for each state in which it waits for its client.

    uvicorn has a time-out for idle connections alone: clients that send half a header, half a body, or read nothing
    would keep their connections, and so keep others out, for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer; where all connections are taken, close the one that waits longest for its client."""
        super().connection_made(transport)
        self.timeout: int = self.timeout_keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._state: Any = None
        self._watch()
        if self._has_room():
            self.limit_concurrency = None  # uvicorn would also count requests that have ended already

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Handle what has arrived."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection; uvicorn starts this timer with each complete response."""
        self._time_out()

    def pause_writing(self) -> None:
        """Start a timer while the client does not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def shutdown(self) -> None:
        """End with the server; a request that has not arrived completely is answered at once."""
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._close_with(503, SHUTTING_DOWN)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._close_with(400, "this is not a valid HTTP request")

    @property
    def _waits(self) -> bool:
        """Whether it waits for its client, rather than the client for it."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) or self.cycle is None or self.cycle.response_complete

    def _has_room(self) -> bool:
        """Whether this connection is within the limit, perhaps after closing another; otherwise uvicorn answers 503."""
        limit = self.config.limit_concurrency
        if limit is None or len(self.connections) < limit:
            return True
        others = [one for one in self.connections if isinstance(one, _TimedProtocol) and one is not self]
        oldest = min((one for one in others if one._waits), key=lambda one: one._since, default=None)
        if oldest is None:
            return False
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def _watch(self) -> None:
        """Start the timer anew for each state in which the client has to send something; stop it in other states."""
        if self.conn.their_state is self._state:
            return
        self._state, self._since = self.conn.their_state, self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
        waits = self._state in (h11.IDLE, h11.SEND_BODY)
        self._timer = self.loop.call_later(self.timeout, self._time_out) if waits else None

    def _time_out(self) -> None:
        what = "header" if self._state is h11.IDLE else "body"
        self._close_with(408, f"the {what} of the request took longer than {self.timeout} seconds")

    def _close_with(self, status: int, message: str) -> None:
        """Send an error, unless a response was begun or nothing was asked; then close the connection."""
        asked = self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        if asked and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            headers = {**HEADERS, "Content-Type": "application/json", "Connection": "close"}
            body = json.dumps({"error": message}).encode()
            pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
            pairs.append((b"Content-Length", str(len(body)).encode()))
            for event in (
                h11.Response(status_code=status, headers=pairs, reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # so that the application sends nothing more
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(self.timeout, self.transport.abort)  # where the client does not read what is left
