"""Lines of JSON objects: read with every problem named by its line, written so that a kill costs one line at most."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from lrp_hooks.errors import CaseError

MOST_PROBLEMS = 20
"""How many problems of a file are listed."""
Made = TypeVar("Made")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects. Blank lines are skipped.

    Raises:
        CaseError: a file that cannot be read, a line that is no JSON object; names the line.
    """
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, parse_object(line, path, number)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CaseError(f"cannot read {path}: {error}") from error


def read_all(
    path: Path, make: Callable[[dict[str, Any], str, int], Made | None], key: Callable[[Made], str]
) -> list[Made]:
    """What ``make`` makes of each object; what it makes None of is left out.

    Args:
        make: gets the object, where it stands (file and line), and the line.
        key: must differ from line to line.

    Raises:
        CaseError: names every problem (the first 20) with its line; two lines with one key are a problem.
    """
    many: list[Made] = []
    wrong: list[str] = []
    lines: dict[str, int] = {}
    for number, row in read_objects(path):
        where = f"{path}, line {number}"
        try:
            made = make(row, where, number)
        except CaseError as error:
            wrong += str(error).splitlines()
            continue
        if made is None:
            continue
        if key(made) in lines:
            wrong.append(f"{where}: id: {key(made)!r} is already that of line {lines[key(made)]}")
        lines.setdefault(key(made), number)
        many.append(made)
    if wrong:
        raise CaseError(listed(wrong))
    return many


def listed(wrong: Sequence[str]) -> str:
    """The first problems of a file, one per line, and how many more there are."""
    more = [f"and {len(wrong) - MOST_PROBLEMS} more"] if len(wrong) > MOST_PROBLEMS else []
    return "\n".join([*wrong[:MOST_PROBLEMS], *more])


def _opened(path: Path) -> IO[str]:
    """A file as text, unpacked where its name ends in ``.gz``."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def parse_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """One line as an object."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CaseError(f"{path}, line {number}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise CaseError(f"{path}, line {number}: an object is expected, not {type(row).__name__}")
    return row


class Appender:
    """Appends objects to a file, one line each, each on disk before the next is begun.

    One process at a time. A run that was killed may have left half a line at the end: it is cut off when the file is
    opened again, and what it was about is done again. Complete lines are never touched.
    """

    def __init__(self, path: Path):
        from filelock import FileLock, Timeout

        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            with path.open("ab"):
                pass
            os.truncate(path, _complete(path))
            self._file = path.open("ab")
        except Timeout as error:
            raise CaseError(f"another run is writing to {path}. do: choose another file, or wait") from error
        except OSError as error:
            self._lock.release()
            raise CaseError(f"cannot write {path}: {error.strerror}. do: choose another file") from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one object.

        Raises:
            CaseError: the disk is full, or the like; what was written before stays.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        try:
            self._file.write(line.encode(errors="surrogatepass") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CaseError(f"cannot write {self._path}: {error.strerror}. finished lines are kept") from error

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _complete(path: Path) -> int:
    """Bytes up to and with the last line break."""
    return path.read_bytes().rfind(b"\n") + 1
