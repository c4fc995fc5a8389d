"""An explorer that runs: a tiny model behind a real server on a real socket."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import tiny

from lrp_hooks.explorer.server import ExplorerServer
from lrp_hooks.explorer.session import Session
from lrp_hooks.loading.loaded import LoadedModel

PROMPT = {"text": "say no more"}


def load(name: str, **_: Any) -> LoadedModel:
    """``tiny-3`` is the tiny model of seed 3."""
    return tiny.loaded(int(name.partition("-")[2]))


@dataclass
class Client:
    """Requests to a server, with its secret unless told otherwise."""

    address: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def secret(self) -> str:
        return self.address.partition("token=")[2]

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def ask(
        self, method: str, path: str, body: Any = None, *, known: bool = True, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        shown = {"Authorization": f"Bearer {self.secret}"} if known else {}
        connection.request(method, path, data, {**shown, **headers})
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, read

    def json(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, _, data = self.ask(method, path, body)
        assert found == status, data.decode()
        return json.loads(data)

    def finished(self, path: str, form: Any) -> dict[str, Any]:
        """The job that a form starts, once it has ended."""
        job = self.json("POST", path, form, status=202)
        for _ in range(2000):
            if job["state"] not in ("waiting", "running"):
                break
            time.sleep(0.01)
            job = self.json("GET", f"/api/jobs/{job['number']}")
        return dict(job)

    def result(self, path: str, form: Any) -> Any:
        job = self.finished(path, form)
        assert job["state"] == "done", job["error"]
        return job["result"]


def serving(session: Session) -> Iterator[Client]:
    server = ExplorerServer(session, 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield Client(server.address)
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
