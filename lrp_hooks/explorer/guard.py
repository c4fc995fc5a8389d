"""Who may talk to the explorer: the browser of whoever started it, from the explorer's own pages, and nobody else.

Loopback is shared by everybody on the machine and by every page in the browser, so binding to it is not enough:

- a secret, new with every start, stands in the address that is printed, and then in a cookie: other users of the
  machine do not know it;
- the Host header must name this machine: a foreign name that was made to point here (DNS rebinding) is turned away;
- what changes something must come from our own page (Origin): a page on another port counts as the same site, and its
  requests carry the cookie.
"""

from __future__ import annotations

import hashlib
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE = ("GET", "HEAD")
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def new_secret() -> str:
    return secrets.token_urlsafe(24)


def cookie_name(secret: str) -> str:
    """Cookies are shared by all ports: each explorer's has a name of its own."""
    return f"lrp_hooks_{hashlib.sha256(secret.encode()).hexdigest()[:12]}"


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, secret: str):
        self._app, self._secret, self._cookie = app, secret, cookie_name(secret)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets: the server closes them
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if (why := self._refused(scope["method"], headers)) is not None:
            await _answer(send, 403, why)
        elif scope["path"] == "/" and self._is_secret(query.get("token", [""])[0]):
            cookie = f"{self._cookie}={self._secret}; Path=/; HttpOnly; SameSite=Lax"
            await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})
        elif not self._is_secret(self._shown(headers)):
            await _answer(send, 403, "Open the address that `lrp-hooks serve` printed: it holds the key to this page.")
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refused(self, method: str, headers: dict[str, str]) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _hostname(f"//{host}") not in LOOPBACK:
            return "This page is served to this machine alone: open it as http://127.0.0.1 or http://localhost."
        if method not in SAFE and origin is not None and origin.partition("://")[2] != host:
            return "Another page may not change anything here."
        return None

    def _shown(self, headers: dict[str, str]) -> str:
        """The secret that a request shows, in its cookie or as a bearer token; empty when it shows none."""
        bearer = headers.get("authorization", "")
        if bearer.startswith("Bearer "):
            return bearer.removeprefix("Bearer ")
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return next((value for name, _, value in cookies if name == self._cookie), "")

    def _is_secret(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self._secret.encode())


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message["headers"]}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in known]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent


async def _answer(send: Send, status: int, words: str, headers: dict[str, str] | None = None) -> None:
    all_headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": words.encode()})
