"""Programs that mean ill, in the sandbox: none passes, none gets out, none outlives its time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrp_hooks.cases.sandbox import Limits, Program, Result, execution_allowed, run_tests, runner
from lrp_hooks.errors import ExecutionError

TEST = "def check(candidate):\n    assert candidate(2) == 3\n"
GOOD = "def f(x):\n    return x + 1\n"
SHORT = Limits(seconds=3, memory_bytes=256 << 20, file_bytes=1 << 20, processes=4)


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with execution_allowed():
        try:
            run_tests(Program("def f(): pass", "check = callable", "f"), SHORT)
        except ExecutionError as error:
            pytest.skip(str(error))
        yield


def run(source: str, test: str = TEST, limits: Limits = SHORT) -> Result:
    return run_tests(Program(source, test, "f"), limits)


def test_a_right_program_passes_and_a_wrong_one_says_why() -> None:
    assert run(GOOD) == Result(True)
    assert run("def f(x):\n    return x\n") == Result(False, "AssertionError: ")
    assert run("def f(x:\n").reason.startswith("SyntaxError")
    assert run("g = 1").reason == "KeyError: 'f'"


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def f(x):\n    raise SystemExit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def check(candidate):\n    pass\ndef f(x):\n    return 0",
        'def f(x):\n    return 0\n"""',
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import threading\nraise KeyboardInterrupt",
        "def f(x):\n    print('{\"secret\": true}', flush=True)\n    return 0",
        'import os\nfor n in range(3, 64):\n    try:\n        os.write(n, b\'{"secret": ""}\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
    ],
)
def test_no_verdict_is_forged(source: str) -> None:
    result = run(source)
    assert not result.passed
    assert result.reason


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("while True: pass", "ended before the last test"),  # the limit on processor time, or on the clock
        ("import time\ntime.sleep(60)", "not finished after 3 seconds"),
        (
            "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
            "ended before the last test",
        ),
        ("x = bytearray(1 << 30)", "MemoryError: "),
        ("x = []\nwhile True: x.append(' ' * 1000000)", "MemoryError: "),
    ],
)
def test_time_and_memory_end(source: str, reason: str) -> None:
    began = time.monotonic()
    result = run(source)
    assert not result.passed
    assert result.reason in (reason, "not finished after 3 seconds")
    assert time.monotonic() - began < 10


def test_output_is_thrown_away() -> None:
    assert run("print('x' * (1 << 24))\n" + GOOD).passed


def test_standard_input_is_empty() -> None:
    assert run("import sys\nassert sys.stdin.read() == ''\n" + GOOD).passed


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    assert run("import os\nassert 'SECRET_OF_MINE' not in os.environ\n" + GOOD).passed


FORKS = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
        assert made < 50
except OSError:
    pass
def f(x):
    return made
"""


def test_a_fork_bomb_is_limited_and_killed() -> None:
    count = "def check(candidate):\n    assert candidate(0) < 4\n"
    began = time.monotonic()
    assert run(FORKS, count) == Result(True)
    assert time.monotonic() - began < 3  # what it left behind was not waited for


def test_what_a_program_leaves_behind_is_gone() -> None:
    """A process that has left the session of the program."""
    name = f"lrp-left-{os.getpid()}"
    rename = f"ctypes.CDLL(None).prctl(15, {name[:15].encode()!r}, 0, 0, 0)"
    left = f"import ctypes, os, time\nif os.fork() == 0:\n    os.setsid()\n    {rename}\n"
    assert run(left + "    time.sleep(60)\ntime.sleep(0.5)\n" + GOOD).passed
    assert name[:15] not in {_name(path) for path in Path("/proc").glob("[0-9]*/comm")}


def _name(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def test_it_writes_in_its_folder_and_nowhere_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for place in [tmp_path, Path("/tmp"), Path("/dev/shm"), Path.cwd()]:
        result = run(f"open({str(place / 'made-by-a-program')!r}, 'w')\n" + GOOD)
        assert not result.passed
        assert not (place / "made-by-a-program").exists()
    assert run("open('inside', 'w').write('x')\nassert open('inside').read() == 'x'\n" + GOOD).passed


def test_it_cannot_make_anything_writable_again() -> None:
    again = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nassert c.mount(None, b'/', None, 32 | 4096, None)\n"
    assert run(again + GOOD).passed
    nested = again.replace("assert", "assert c.unshare(0x10020000) == 0\nassert")
    result = run(nested + GOOD)
    assert result.passed or "unshare" in result.reason


def test_files_are_small() -> None:
    assert run("open('big', 'wb').write(bytes(2 << 20))\n" + GOOD).reason != ""
    many = "for n in range(4):\n    open(str(n), 'wb').write(bytes(1 << 19))\n"
    assert "No space left" in run(many + GOOD).reason


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n" + GOOD)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "OSError" in result.reason


def test_it_cannot_kill_who_started_it() -> None:
    me = os.getpid()
    kill = f"import os\nfor pid in ({me}, os.getppid() or -1, -1):\n    try:\n        os.kill(pid, 9)\n"
    assert run(kill + "    except OSError:\n        pass\n" + GOOD).passed


def test_nothing_runs_without_permission() -> None:
    import contextvars

    with pytest.raises(ExecutionError, match="--allow-exec"):
        contextvars.Context().run(run, GOOD)


def test_where_the_kernel_does_not_isolate_it_takes_a_word_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A harness whose namespaces are refused, as in a container without them."""
    source = runner.HARNESS.read_text().replace('call("unshare", NEW_NAMESPACES)', 'raise OSError("unshare: no")')
    (tmp_path / "harness.py").write_text(source)
    monkeypatch.setattr(runner, "HARNESS", tmp_path / "harness.py")
    runner._run.cache_clear()
    with pytest.raises(ExecutionError, match=r"unshare: no.*--allow-network"):
        run(GOOD + "# not isolated")
    with execution_allowed(isolated=False):
        assert run(GOOD).passed
        assert not run("import os\nos._exit(0)").passed
        assert run("import time\ntime.sleep(60)").reason == "not finished after 3 seconds"
    runner._run.cache_clear()
