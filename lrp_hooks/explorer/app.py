"""The explorer's addresses: its page, what the page asks for, results in frames, files to download."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lrp_hooks.errors import InputError, LrpError, first_line
from lrp_hooks.explorer.forms import Comparing, Continuing, Explaining, Form, Loading, Reading, read_form
from lrp_hooks.explorer.jobs import Job
from lrp_hooks.explorer.page import explorer_page
from lrp_hooks.explorer.session import Session
from lrp_hooks.render.colours import PALETTES
from lrp_hooks.render.frames import Display

LARGEST_FORM = 32 << 20
LARGEST_FILE = {".safetensors": 2 << 30, ".json": 128 << 20}
"""Bytes of a request: a prompt of millions of characters, a graph of tens of millions of edges, the map of 128k tokens
(JSON takes many times its size while it is read)."""
DRAWN_AT_ONCE = 4
"""Results that are drawn or written at the same time; others wait, and nobody else does."""
FRAME_POLICY = "frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
"""Results come from files that people exchange. The page draws their text in a sandboxed frame; whoever opens the
address itself gets a site of its own, too."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
}

Handler = Callable[[Request], Awaitable[Response]]


def application(session: Session) -> Starlette:
    """The routes over a session."""
    handlers = _Handlers(session)
    work: list[tuple[str, type[Form], Callable[[Any], Job]]] = [
        ("/api/load", Loading, session.load),
        ("/api/read", Reading, session.read),
        ("/api/continue", Continuing, session.go_on),
        ("/api/explain", Explaining, session.explain),
    ]
    routes = [
        Route("/", handlers.page),
        Route("/api/state", handlers.state),
        *(Route(path, handlers.submit(kind, start), methods=["POST"]) for path, kind, start in work),
        Route("/api/jobs/{number}", handlers.job),
        Route("/api/jobs/{number}/cancel", handlers.cancel, methods=["POST"]),
        Route("/api/compare", handlers.compare, methods=["POST"]),
        Route("/api/open", handlers.open, methods=["POST"]),
        Route("/api/results/{number}", handlers.remove, methods=["DELETE"]),
        Route("/results/{number}", handlers.result),
        Route("/results/{number}/download", handlers.download),
    ]
    return Starlette(routes=routes, exception_handlers={LrpError: _refuse, Exception: _fail})


class _Handlers:
    """What each address does."""

    def __init__(self, session: Session):
        self._session = session
        self._places = anyio.CapacityLimiter(DRAWN_AT_ONCE)
        self._drawing = threading.Lock()  # matplotlib draws one picture at a time

    async def page(self, _: Request) -> Response:
        text, policy = explorer_page()
        return HTMLResponse(text, headers={"content-security-policy": policy})

    async def state(self, _: Request) -> Response:
        return JSONResponse(self._session.state())

    def submit(self, kind: type[Form], start: Callable[[Any], Job]) -> Handler:
        async def handler(request: Request) -> Response:
            form = read_form(kind, await _body(request, LARGEST_FORM))
            return JSONResponse(start(form).facts(), status_code=202)

        return handler

    async def job(self, request: Request) -> Response:
        job = self._session.jobs.get(_number(request))
        return _missing("job") if job is None else JSONResponse(job.facts())

    async def cancel(self, request: Request) -> Response:
        self._session.jobs.cancel(_number(request))
        return Response(status_code=204)

    async def compare(self, request: Request) -> Response:
        form = read_form(Comparing, await _body(request, LARGEST_FORM))
        return JSONResponse((await run_in_threadpool(self._session.compare, form)).facts)

    async def open(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        most = LARGEST_FILE.get(Path(name).suffix.lower(), 0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "opened"
            with path.open("wb") as file:
                async for part in _parts(request, most):
                    await run_in_threadpool(file.write, part)
            entry = await run_in_threadpool(self._session.open, path, name)
        return JSONResponse(entry.facts)

    async def remove(self, request: Request) -> Response:
        await run_in_threadpool(self._session.shelf.remove, _number(request))
        return Response(status_code=204)

    async def result(self, request: Request) -> Response:
        """A result for a frame."""
        entry = self._session.shelf.get(_number(request))
        query = request.query_params
        palette, theme = query.get("palette", "red-blue"), query.get("theme", "auto")
        if palette not in PALETTES or theme not in ("auto", "light", "dark"):
            raise InputError(f"unknown palette {palette!r} or theme {theme!r}")
        text = await self._drawn(entry.result.page, Display(palette, theme))
        return HTMLResponse(text, headers={"content-security-policy": FRAME_POLICY})

    async def download(self, request: Request) -> Response:
        """A file in one of the result's formats; several files as one archive."""
        entry = self._session.shelf.get(_number(request))
        suffix, palette = request.query_params.get("format", ""), request.query_params.get("palette", "red-blue")
        if suffix not in entry.result.formats:
            raise InputError(f"a {entry.result.kind} has no format {suffix!r}. choices: {entry.result.formats}")
        name = f"{entry.result.kind}-{entry.number}"
        data, name = await self._drawn(self._written, entry.result, name, suffix, palette)
        kind = TYPES.get(Path(name).suffix, "application/octet-stream")
        headers = {"content-disposition": f'attachment; filename="{name}"', "content-security-policy": FRAME_POLICY}
        return Response(data, media_type=kind, headers=headers)

    async def _drawn(self, draw: Callable[..., Any], *given: Any) -> Any:
        return await anyio.to_thread.run_sync(partial(draw, *given), limiter=self._places)

    def _written(self, result: Any, name: str, suffix: str, palette: str) -> tuple[bytes, str]:
        with tempfile.TemporaryDirectory() as folder, self._drawing:
            files = result.write(Path(folder) / f"{name}{suffix}", palette)
            if len(files) == 1:
                return files[0].read_bytes(), files[0].name
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in files:
                    archive.write(file, file.name)
            return packed.getvalue(), f"{name}{suffix}.zip"


async def _body(request: Request, most: int) -> bytes:
    """The request's body.

    Raises:
        InputError: more than so many bytes.
    """
    return b"".join([part async for part in _parts(request, most)])


async def _parts(request: Request, most: int) -> AsyncIterator[bytes]:
    size, said = 0, request.headers.get("content-length", "")
    words = f"that is more than {most >> 20:,} MiB" if most else f"the explorer opens {' and '.join(LARGEST_FILE)}"
    too_much = InputError(words)
    if not most or (said.isdecimal() and int(said) > most):
        raise too_much
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_much
        yield part


def _number(request: Request) -> int:
    """Of a job or a result, in the path; 0, which nothing has, for what is no number."""
    text = str(request.path_params["number"])
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _missing(what: str) -> Response:
    return JSONResponse({"error": f"there is no such {what}"}, status_code=404)


async def _refuse(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=422)


async def _fail(_: Request, error: Exception) -> Response:
    """What nobody thought of: said to the page; the terminal has the traceback."""
    return JSONResponse({"error": f"{type(error).__name__}: {first_line(error)}"}, status_code=500)
