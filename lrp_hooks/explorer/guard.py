"""Who may talk to the explorer: the page of whoever started it, and nobody else.

Loopback is shared by everybody on the machine and by every page in the browser, so binding to it is not enough. A
secret, new with every start, stands behind the # of the printed address. What stands there is never sent: the page's
script reads it, keeps it for its own tab, and shows it with each request (``Authorization: Bearer``). A cookie would
not do: browsers send the cookies of one port to every other port of the machine, to whoever listens there.

So another page cannot ask for anything (it does not know the secret, and may not set that header), and the page itself,
which anybody may fetch, holds nothing.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def new_secret() -> str:
    return secrets.token_urlsafe(24)


class Guard:
    """An ASGI application around another: ``/`` is for everybody on this machine, the rest for who has the secret."""

    def __init__(self, app: ASGIApp, secret: str):
        self._app, self._shown = app, f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # no web sockets: the server closes them
            why = self._refusal(scope)
            await (self._app(scope, receive, _with_headers(send)) if why is None else _refuse(send, why))

    def _refusal(self, scope: Scope) -> str | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not _names_this_machine(headers.get(b"host", "")):
            return "This page is served to this machine alone: open it as http://127.0.0.1 or http://localhost."
        if scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):
            return None
        shown = headers.get(b"authorization", "").encode("latin-1")
        if not secrets.compare_digest(shown, self._shown):
            return "This page does not know its key. do: open the address that `lrp-hooks serve` printed, to its end"
        return None


def _names_this_machine(host: str) -> bool:
    """Whether a Host header does; a foreign name that was made to point here (DNS rebinding) does not."""
    try:
        return "@" not in host and urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent


async def _refuse(send: Send, words: str) -> None:
    headers = {**HEADERS, "content-type": "text/plain; charset=utf-8"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 403, "headers": pairs})
    await send({"type": "http.response.body", "body": words.encode()})
