"""Nothing is executed from data unless the person who started this has said so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from lrp_hooks.errors import ExecutionError


@dataclass(frozen=True)
class Permission:
    """To run programs that models have written.

    Attributes:
        isolated: only where the kernel cuts them off from network, files and other processes.
    """

    isolated: bool = True


_given: ContextVar[Permission | None] = ContextVar("permission", default=None)


@contextmanager
def execution_allowed(*, isolated: bool = True) -> Iterator[None]:
    """Within, programs from data may be run.

    Args:
        isolated: False also runs them where the kernel cannot shut them in, with limits on time and memory alone.
    """
    token = _given.set(Permission(isolated))
    try:
        yield
    finally:
        _given.reset(token)


def permission() -> Permission:
    """What is allowed now.

    Raises:
        ExecutionError: nothing is.
    """
    given = _given.get()
    if given is None:
        raise ExecutionError(
            "this benchmark is judged by running the programs that the model writes. "
            "do: allow it with --allow-exec (in Python: with execution_allowed())"
        )
    return given
