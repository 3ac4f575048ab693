"""Checks before every route: which requests are answered, and which headers tell browsers what to refuse."""

from __future__ import annotations

import ipaddress
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class AccessCheck:
    """Refuses requests with a foreign Host, without the token, or from a foreign page; adds `HEADERS` to each response.

    A website could let a name of its own lead to this machine (DNS rebinding), or let the browser of a visitor post to
    it. The first shows in the Host header, the second in Origin and Sec-Fetch-Site.

    Args:
        app: answers what is not refused.
        hosts: names that the Host header may hold, besides the address at which the connection arrived; None for any.
        token: what a client has to present, once in the address as `?token=`, then as a cookie; empty for no token.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str = "") -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._refusal(scope) or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self.hosts is not None and not self._is_known(headers.get("host", ""), scope):
            return _error(403, "the Host header names another server; --allow-host NAME adds a name")
        if self.token and not self._same(HTTPConnection(scope).cookies.get(_cookie(scope), "")):
            if scope["method"] == "GET" and self._same(QueryParams(scope["query_string"]).get("token", "")):
                return self._signed_in(scope)
            return _error(401, "this server needs its token; open the address that it printed when it was started")
        if scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
            return _error(403, "the request comes from another website")
        return None

    def _is_known(self, host: str, scope: Scope) -> bool:
        assert self.hosts is not None
        name = _name(host)
        return name in self.hosts or (_is_address(name) and name == (scope.get("server") or ("",))[0])

    def _same(self, given: str) -> bool:
        """Compare with the token in a time that does not depend on where they differ."""
        return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode())

    def _signed_in(self, scope: Scope) -> Response:
        """Put the token into a cookie, and take it out of the address; always to the page, never to a given path."""
        response = RedirectResponse("/", 303)
        response.set_cookie(_cookie(scope), self.token, httponly=True, samesite="lax")
        return response


def _cookie(scope: Scope) -> str:
    """Name of the cookie: browsers send cookies of a machine to all its ports, so that the port is part of it."""
    return f"relprop-{(scope.get('server') or ('', 0))[1]}"


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that a page of another site sends the request."""
    origin = headers.get("origin")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    try:
        return origin is not None and urlsplit(origin).netloc != headers.get("host", "")
    except ValueError:  # brackets that hold no address
        return True


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """The name in a Host header, without its port: "[::1]:8000" is "::1"."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
