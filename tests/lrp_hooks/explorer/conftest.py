"""Explorers for tests: without a model, and with the tiny one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from explorer_client import Client, load, serving

from lrp_hooks.explorer.engine import Settings
from lrp_hooks.explorer.session import Session
from lrp_hooks.explorer.shelf import Shelf


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(load, Settings(), Shelf(tmp_path / "kept"))


@pytest.fixture
def client(session: Session) -> Iterator[Client]:
    """A server without a model."""
    yield from serving(session)


@pytest.fixture
def tiny_client(client: Client) -> Client:
    """A server with the tiny model."""
    client.result("/api/load", {"name": "tiny-0"})
    return client
