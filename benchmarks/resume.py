"""Records that survive an interrupted run: one JSON line each, found again by key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRATCH = Path(__file__).parents[1] / ".benchmarks"


class Records:
    """Finished parts of one run.

    A file belongs to one set of settings (such as the commit and the sizes); another set starts it anew, since its
    numbers would not belong together.
    """

    def __init__(self, name: str, settings: dict[str, Any], folder: Path = SCRATCH):
        self._path = folder / f"{name}.jsonl"
        self._known: dict[str, Any] = {}
        settings = json.loads(json.dumps(settings))
        lines = _whole_lines(self._path)
        if lines and lines[0] == {"settings": settings}:
            self._known = {line["key"]: line["value"] for line in lines[1:]}
        folder.mkdir(parents=True, exist_ok=True)
        kept = [{"settings": settings}, *({"key": key, "value": value} for key, value in self._known.items())]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The record of ``key``, made and written when it is not there."""
        if key not in self._known:
            value = json.loads(json.dumps(make()))
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
            self._known[key] = value
        return self._known[key]

    def done(self) -> None:
        """The run is complete: forget its parts."""
        self._path.unlink(missing_ok=True)


def _whole_lines(path: Path) -> list[Any]:
    """The file's lines; a last one that was cut off by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
