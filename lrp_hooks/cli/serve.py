"""``lrp-hooks serve``: the explorer, until interrupted."""

from __future__ import annotations

import html
import os
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from lrp_hooks.cli.attribute import consoles
from lrp_hooks.cli.inputs import parse_checkpoint, parse_memory
from lrp_hooks.errors import InputError, MissingExtraError
from lrp_hooks.graph.io import SUFFIX
from lrp_hooks.loading.model import load_model, look_for_model


def run(
    model: str | None,
    *,
    files: tuple[Path, ...] = (),
    folder: Path | None = None,
    port: int | None = None,
    browser: bool = False,
    checkpoint: str = "auto",
    max_memory: str | None = None,
    unknown: str = "error",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    **loading: Any,
) -> None:
    """The whole command.

    Raises:
        MissingExtraError: the web server's packages are not installed.
        InputError: a taken port, an unknown option.
        LrpError: a file that cannot be opened.
    """
    try:
        from lrp_hooks.explorer.server import ExplorerServer
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the explorer needs {error.name}. do: pip install 'lrp-hooks[serve]'") from error
    from lrp_hooks.explorer.engine import Settings
    from lrp_hooks.explorer.forms import Loading, read_form
    from lrp_hooks.explorer.session import Session
    from lrp_hooks.explorer.shelf import Shelf

    if model is not None and model.endswith(SUFFIX):
        files, model = (Path(model), *files), None
    wanted = None if model is None else read_form(Loading, {"name": model, **loading})
    look = partial(look_for_model, trust_remote_code=trust_remote_code)
    loader = partial(load_model, attn_implementation=attn_implementation, trust_remote_code=trust_remote_code)
    settings = Settings(unknown, parse_checkpoint(checkpoint), parse_memory(max_memory))
    session = Session(loader, settings, Shelf(folder), look)
    _, notes = consoles()
    for note in session.shelf.notes:
        notes.print(f"left out: {note}", markup=False, highlight=False)
    for file in files:
        if not file.is_file():
            raise InputError(f"there is no file {file}")
        session.open(file, file.name)
    server = ExplorerServer(session, port)
    if wanted is not None:
        session.load(wanted)
    _announce(notes, server.address)
    with opened_in_browser(server.address) if browser else nullcontext():
        ended = server.run()
    if not ended:
        notes.print("a step that cannot be interrupted was left behind", markup=False, highlight=False)
        sys.stderr.flush()
        os._exit(0)  # Python would wait for it


@contextmanager
def opened_in_browser(address: str) -> Iterator[None]:
    """The address in the browser, by way of a file: everybody on the machine can read the words of a command."""
    with tempfile.TemporaryDirectory() as folder:  # for its owner alone
        page = Path(folder) / "explorer.html"
        page.write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">', encoding="utf-8")
        webbrowser.open(page.as_uri())
        yield


def _announce(notes: Console, address: str) -> None:
    port = urlsplit(address).port
    for line in (
        f"explorer: {address}",
        f"from another machine: ssh -L {port}:127.0.0.1:{port} HOST, then open this address. Ctrl+C stops.",
    ):
        notes.print(line, markup=False, highlight=False)
