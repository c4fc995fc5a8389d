"""The results of one explorer, numbered, and where it is asked for kept in a folder from which they come back."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_hooks.errors import InputError, LrpError
from lrp_hooks.explorer.results import Result, opened
from lrp_hooks.files import write_atomically

_FILE = re.compile(r"(\d{4,9})\.(?:safetensors|json)")


@dataclass(frozen=True)
class Entry:
    """A result and its number.

    Attributes:
        facts: what a page's list shows, as JSON: among it ``origin`` ("explained", "compared", "opened"), ``question``
            (the form that it answers, None where there is none) and ``seconds`` (what it took).
    """

    number: int
    result: Result
    facts: dict[str, Any]


class Shelf:
    """Entries by number. Several threads may use it.

    Args:
        folder: keeps each entry as a file of its own format (``0001.safetensors``, ``0002.json``), with its question
            beside it (``0001.question.json``); files that are there are taken up. A new one is for its owner alone:
            prompts are private. None: entries live as long as this.

    Attributes:
        notes: what was found in the folder and could not be taken up.

    Raises:
        InputError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.notes: list[str] = []
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._last = 0
        if folder is not None:
            self._take_up(folder)

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            return iter(list(self._entries.values()))

    def add(
        self, result: Result, origin: str, question: dict[str, Any] | None = None, seconds: float | None = None
    ) -> Entry:
        """Number a result and keep it. It is there once it is whole: its facts can be sent, its files are written.

        Raises:
            InputError: what it says about itself is no JSON.
            LrpError: its file cannot be written.
        """
        with self._writing:
            entry = _entry(self._last + 1, result, {"origin": origin, "question": question, "seconds": seconds})
            self._last += 1
            if self.folder is not None:
                self._write(entry)
            with self._lock:
                self._entries[entry.number] = entry
        return entry

    def get(self, number: int) -> Entry:
        """Raises InputError when there is none."""
        with self._lock:
            if number not in self._entries:
                raise InputError(f"there is no result {number}")
            return self._entries[number]

    def remove(self, number: int) -> None:
        """Forget an entry, and its files. Raises InputError when there is none."""
        with self._writing:
            entry = self.get(number)
            with self._lock:
                del self._entries[number]
            if self.folder is not None:
                for path in self._files(entry):
                    path.unlink(missing_ok=True)

    def _files(self, entry: Entry) -> tuple[Path, Path]:
        assert self.folder is not None
        stem = f"{entry.number:04}"
        return self.folder / f"{stem}{entry.result.kept_as}", self.folder / f"{stem}.question.json"

    def _write(self, entry: Entry) -> None:
        path, beside = self._files(entry)
        asked = json.dumps({name: entry.facts[name] for name in BESIDE}, ensure_ascii=False, indent=1)
        entry.result.write(path, "red-blue")
        write_atomically(beside, lambda file: file.write(asked.encode()))

    def _take_up(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise InputError(f"{folder} cannot keep results: {error.strerror}. do: another --folder") from error
        found = {int(match[1]): name for name in names if (match := _FILE.fullmatch(name))}
        for number, name in sorted(found.items()):
            self._last = number
            try:
                result = opened(folder / name, name)
                self._entries[number] = _entry(number, result, _beside(folder, number))
            except LrpError as error:  # one damaged file does not hide the others
                self.notes.append(str(error))


BESIDE = ("origin", "question", "seconds")
"""What is known about a result besides what is in it."""


def _entry(number: int, result: Result, beside: dict[str, Any]) -> Entry:
    try:
        facts = {"number": number, "kind": result.kind, "formats": result.formats, **beside, **result.facts()}
        json.dumps(facts, ensure_ascii=False, allow_nan=False).encode()
    except Exception as error:  # a file says what it likes about itself
        raise InputError(f"the {result.kind} cannot be listed: {error}") from error
    return Entry(number, result, facts)


def _beside(folder: Path, number: int) -> dict[str, Any]:
    """What stands beside a result; a result without it can still be looked at."""
    try:
        facts = json.loads((folder / f"{number:04}.question.json").read_text(encoding="utf-8"))
        origin, question, seconds = (facts[name] for name in BESIDE)
        found = {
            "origin": str(origin),
            "question": question if isinstance(question, dict) else None,
            "seconds": None if seconds is None else float(seconds),
        }
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        return found
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return {"origin": "opened", "question": None, "seconds": None}
