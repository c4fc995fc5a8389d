"""Serve an explorer on this machine: a socket on loopback, an address with a secret."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

import uvicorn

from lrp_hooks.errors import InputError
from lrp_hooks.explorer.app import application
from lrp_hooks.explorer.guard import Guard, new_secret
from lrp_hooks.explorer.session import Session

HOST = "127.0.0.1"
PORT, TRIED = 8765, 20
"""The port, and how many from it on are tried when it is taken."""
MOST_CONNECTIONS = 200


class ExplorerServer:
    """Listens from the start, answers while it runs.

    Args:
        port: 0 takes any that is free; None the first free one from `PORT` on.

    Attributes:
        address: what to open in the browser, secret included.

    Raises:
        InputError: the port is taken.
    """

    def __init__(self, session: Session, port: int | None = None):
        self._session, self._socket = session, listen(port)
        secret = new_secret()
        self.address = f"http://{HOST}:{self._socket.getsockname()[1]}/#token={secret}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                Guard(application(session), secret),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                limit_concurrency=MOST_CONNECTIONS,
            )
        )

    def run(self) -> bool:
        """Serve until interrupted, or stopped from another thread; then end the session's work.

        Returns whether that has ended: a step that cannot be interrupted may go on.
        """
        with self._socket, suppress(KeyboardInterrupt):  # the way to stop it
            self._server.run(sockets=[self._socket])
        return self._session.close()

    def stop(self) -> None:
        self._server.should_exit = True


def listen(port: int | None) -> socket.socket:
    """A socket on loopback, and nowhere else.

    Raises:
        InputError: the port is taken.
    """
    for candidate in range(PORT, PORT + TRIED) if port is None else (port,):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere this would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, candidate))
            made.listen(128)
        except (OSError, OverflowError) as error:
            made.close()
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            raise InputError(f"cannot listen on port {candidate}: {error}. do: another --port") from error
        return made
    which = f"ports {PORT} to {PORT + TRIED - 1} are" if port is None else f"port {port} is"
    raise InputError(f"{which} taken. do: another --port, or --port 0 for any that is free")
