"""Long work, one piece at a time, in a thread of its own: what is done, how far it is, and how it ended."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from lrp_hooks.errors import InputError, LrpError, first_line

State = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT, WAITING = 10, 20
"""Finished jobs that can still be asked about; unfinished ones that there may be."""
logger = logging.getLogger(__name__)


class Cancelled(Exception):
    """Somebody asked for the job to stop."""


@dataclass
class Job:
    """One piece of work. The worker writes to it while others read it.

    Attributes:
        number: counts jobs from 1.
        name: what it does, in words.
        state: how it stands; the last three are final.
        step: what it does at the moment; ``done`` of ``total`` parts of that are finished (total 0: nobody knows).
        text: what it has written so far, where it writes.
        result: what it made, as JSON; ``error``: why it failed.
    """

    number: int
    name: str
    state: State = "waiting"
    step: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    result: Any = None
    error: str = ""
    asked_to_stop: bool = False
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def check(self) -> None:
        """Raises Cancelled when the job is to stop. Called now and then by whoever works on it."""
        if self.asked_to_stop:
            raise Cancelled

    def begin(self, step: str) -> Callable[[int, int], None]:
        """Start a step; returns what is told (parts done, parts in all)."""
        self.check()
        self.step, self.done, self.total = step, 0, 0

        def told(done: int, total: int) -> None:
            self.check()
            self.done, self.total = done, total

        return told

    def facts(self) -> dict[str, Any]:
        """What a page shows of it."""
        seconds = (time.monotonic() if self.ended is None else self.ended) - self.started
        names = ("number", "name", "state", "step", "done", "total", "text", "result", "error")
        return {**{name: getattr(self, name) for name in names}, "seconds": round(seconds, 2)}


Work = Callable[[Job], Any]


class Jobs:
    """A queue with one worker: models are used by one thread at a time.

    The worker is a daemon: a step that nobody can interrupt, a download on a dead network, does not keep the program.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Job, Work] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="explorer", daemon=True)
        self._numbers = count(1)
        self._jobs: dict[int, Job] = {}
        self._worker.start()

    def submit(self, name: str, work: Work) -> Job:
        """Queue work; its return value is the job's result.

        Raises:
            InputError: too much is waiting already.
        """
        if len(self.unfinished()) >= WAITING:
            raise InputError(f"{WAITING} pieces of work are waiting. do: stop some, or wait")
        job = Job(next(self._numbers), name)
        self._jobs[job.number] = job
        self._forget()
        self._queue.put((job, work))
        return job

    def get(self, number: int) -> Job | None:
        return self._jobs.get(number)

    def unfinished(self) -> list[Job]:
        """In the order in which they will be done."""
        return [job for job in list(self._jobs.values()) if job.ended is None]

    def cancel(self, number: int) -> None:
        """Ask a job to stop: it does at its next step, or never starts."""
        job = self.get(number)
        if job is None:
            return
        job.asked_to_stop = True
        if job.state == "waiting":  # at once, whatever runs before it
            job.ended, job.state = time.monotonic(), "cancelled"

    def close(self, seconds: float = 5.0) -> bool:
        """Cancel everything and wait for the worker; whether it has ended."""
        for job in self.unfinished():
            self.cancel(job.number)
        self._queue.put(None)
        self._worker.join(seconds)
        return not self._worker.is_alive()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._run(*item)

    def _run(self, job: Job, work: Work) -> None:
        if job.asked_to_stop:
            job.ended, job.state = job.ended or time.monotonic(), "cancelled"
            return
        job.started, job.state = time.monotonic(), "running"
        try:
            job.result = work(job)
            end: State = "done"
        except Cancelled:
            end = "cancelled"
        except LrpError as error:
            job.error, end = str(error), "failed"
        except Exception as error:
            logger.exception("%s failed", job.name)
            job.error, end = f"{type(error).__name__}: {first_line(error)}. The terminal has more.", "failed"
        job.ended = time.monotonic()
        job.state = end  # last: whoever sees it final sees the rest

    def _forget(self) -> None:
        finished = [number for number, job in list(self._jobs.items()) if job.ended is not None]
        for number in finished[:-KEPT]:
            self._jobs.pop(number, None)
