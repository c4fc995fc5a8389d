"""The results of one explorer, numbered, and where it is asked for kept in a folder from which they come back."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_hooks.errors import InputError, LrpError
from lrp_hooks.explorer import results
from lrp_hooks.explorer.results import Result
from lrp_hooks.files import write_atomically

_FILE = re.compile(r"(\d{4,})\.(?:safetensors|json)")


@dataclass(frozen=True)
class Entry:
    """A result and its number.

    Attributes:
        origin: how it came about: "explained", "compared", "opened".
        question: the form that it answers, as JSON; None where there is none.
        seconds: what it took.
    """

    number: int
    result: Result
    origin: str
    question: dict[str, Any] | None = None
    seconds: float | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "kind": self.result.kind,
            "formats": self.result.formats,
            "origin": self.origin,
            "question": self.question,
            "seconds": self.seconds,
            **self.result.facts(),
        }


class Shelf:
    """Entries by number. Several threads may use it.

    Args:
        folder: keeps each entry as a file of its own format (``0001.safetensors``, ``0002.json``), with its question
            beside it (``0001.question.json``); files that are there are taken up. None: they live as long as this.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._next = 1
        if folder is not None:
            self._take_up(folder)

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            return iter(list(self._entries.values()))

    def add(
        self, result: Result, origin: str, question: dict[str, Any] | None = None, seconds: float | None = None
    ) -> Entry:
        """Number a result and keep it."""
        with self._lock:
            entry = Entry(self._next, result, origin, question, seconds)
            self._next += 1
            self._entries[entry.number] = entry
        if self.folder is not None:
            result.write(self._path(entry), "red-blue")
            facts = {"origin": origin, "question": question, "seconds": seconds}
            data = json.dumps(facts, ensure_ascii=False, indent=1).encode(errors="surrogatepass")
            write_atomically(self.folder / f"{entry.number:04}.question.json", lambda file: file.write(data))
        return entry

    def get(self, number: int) -> Entry:
        """Raises InputError when there is none."""
        with self._lock:
            if number not in self._entries:
                raise InputError(f"there is no result {number}")
            return self._entries[number]

    def remove(self, number: int) -> None:
        """Forget an entry, and its files."""
        entry = self.get(number)
        with self._lock:
            self._entries.pop(number, None)
        if self.folder is not None:
            for path in (self._path(entry), self.folder / f"{number:04}.question.json"):
                path.unlink(missing_ok=True)

    def _path(self, entry: Entry) -> Path:
        assert self.folder is not None
        return self.folder / f"{entry.number:04}{entry.result.kept_as}"

    def _take_up(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            for path in sorted(folder.iterdir()):
                found = _FILE.fullmatch(path.name)
                if found is None:
                    continue
                number = int(found[1])
                self._next = max(self._next, number + 1)
                try:
                    self._entries[number] = Entry(number, results.read(path), **_facts(folder, number))
                except LrpError as error:  # one damaged file does not hide the others
                    self.notes.append(str(error))
        self._entries = dict(sorted(self._entries.items()))


def _facts(folder: Path, number: int) -> dict[str, Any]:
    """What stands beside a result; a result without it can still be looked at."""
    try:
        facts = json.loads((folder / f"{number:04}.question.json").read_text(encoding="utf-8", errors="surrogatepass"))
        return {name: facts[name] for name in ("origin", "question", "seconds")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"origin": "opened"}
