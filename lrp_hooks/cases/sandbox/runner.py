"""An untrusted program and its tests in a process of their own: did all tests pass?"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from lrp_hooks.cases.sandbox.permission import permission
from lrp_hooks.errors import ExecutionError

HARNESS = Path(__file__).with_name("harness.py")
MOST_REPORTED = 4096
"""Bytes of the report that are read."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of processor time, and of the clock on the wall.
        memory_bytes: address space of a process.
        file_bytes: a file, and all files together.
        processes: processes and threads, the one that waits for them included.
    """

    seconds: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    processes: int = 8


@dataclass(frozen=True)
class Program:
    """A program and the function ``check`` that tests one of its functions, as HumanEval has it (arXiv 2107.03374).

    Attributes:
        source: of the program.
        test: source that defines ``check(candidate)``.
        entry_point: the name of the function to test.
    """

    source: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Result:
    """What came of a program.

    Attributes:
        reason: why it failed; empty when all tests passed.
    """

    passed: bool
    reason: str = ""


def run_tests(program: Program, limits: Limits | None = None) -> Result:
    """Run a program with its tests.

    In a fresh interpreter that ignores the environment, with an empty folder of its own, without standard input, its
    output thrown away. It has passed when, after the last test, a secret comes back that only the harness was told:
    whatever the program prints and however it ends is no pass. The secret is in the same process, though: a program
    that searches the interpreter's frames for it could forge a verdict. Models answer questions; they do not do that
    by chance.

    Raises:
        ExecutionError: execution is not allowed, or the kernel cannot shut the program in.
    """
    return _run(program, limits or Limits(), permission().isolated)


@lru_cache(maxsize=256)  # the same answer is judged strictly and loosely, and again by the next stage
def _run(program: Program, limits: Limits, isolated: bool) -> Result:
    secret = secrets.token_hex(16)
    job = {"program": program.source, "test": program.test, "entry_point": program.entry_point, "secret": secret}
    job |= asdict(limits)
    answer, timely = _reported(job | {"isolated": True}, limits.seconds)
    if "refused" in answer and isolated:
        raise ExecutionError(
            f"the kernel does not shut programs in ({answer['refused']}): they could reach the network, and this "
            "user's files and processes. do: run this on Linux with user namespaces, or accept it with --allow-network"
        )
    if "refused" in answer:
        answer, timely = _reported(job | {"isolated": False}, limits.seconds)
    if answer.get("secret") == secret:
        return Result(True)
    reason = answer.get("reason") if timely else f"not finished after {limits.seconds} seconds"
    return Result(False, str(reason or "ended before the last test"))


def _reported(job: dict[str, Any], seconds: float) -> tuple[dict[str, Any], bool]:
    """The harness's report, empty where there is none, and whether it ended in time."""
    with TemporaryFile() as given, TemporaryFile() as report, TemporaryDirectory() as folder:
        given.write(json.dumps(job).encode())
        given.seek(0)
        os.chmod(folder, 0o755)  # another user's way to it; isolated, it is covered by a file system in memory
        timely = _ended(_start(given.fileno(), report.fileno(), folder), seconds)
        report.seek(0)
        return _parsed(report.read(MOST_REPORTED)), timely


def _start(job: int, report: int, folder: str) -> subprocess.Popen[bytes]:
    """The harness, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", str(HARNESS), str(job), str(report)],
        cwd=folder,
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(job, report),
        start_new_session=True,
    )


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ended in time; it is gone in any case, and all of its group.

    The init of the program's namespace is in the group and takes everything else with it.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def _parsed(written: bytes) -> dict[str, Any]:
    try:
        report = json.loads(written)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}
