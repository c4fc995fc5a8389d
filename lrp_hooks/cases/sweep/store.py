"""The folder of a sweep: every record written once, whole or not at all, by any number of processes.

A process holds a lock on the item that it works on. The operating system frees the locks of a process that dies, so a
kill loses nothing but that item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from lrp_hooks.cases.schema import Case, Strict, read_cases, to_line, validated, write_cases
from lrp_hooks.cases.sweep.records import KINDS, Attributed, Item, Record, Validated
from lrp_hooks.errors import CaseError
from lrp_hooks.files import write_atomically

Kind = TypeVar("Kind", Attributed, Validated)
GRAPH = ".graph.safetensors"
"""Suffix of an item's attribution graph."""
EARLIER_RULES: Mapping[str, Any] = {"until_pass": False, "max_new_tokens": 160}
"""What options of validation were before they could be chosen; the manifests of that time do not hold them."""


class Manifest(Strict):
    """What every run into one folder has to agree on.

    Attributes:
        cases: digest of the cases.
        rules: how is validated; empty without validation.
    """

    format: Annotated[str, Field(pattern=r"^lrp_hooks\.sweep/1$")] = "lrp_hooks.sweep/1"
    cases: str
    rules: dict[str, Any] = Field(default_factory=dict)


class Models(Strict):
    """The models of a sweep, in the order in which they were asked for."""

    models: tuple[str, ...]


class Store:
    """The records of one sweep."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._graphs = False
        self._judged: frozenset[str] = frozenset()
        self._written: set[Item] = set()

    def open(
        self,
        cases: Sequence[Case],
        rules: dict[str, Any],
        models: Sequence[str] = (),
        *,
        graphs: bool = False,
        judged: Collection[str] = (),
    ) -> None:
        """Begin a sweep, or go on with one; new models come after the ones that are known.

        Args:
            graphs: an attribution is finished only with its graph. One that was made without is made again.
            judged: ids of cases whose answers can be judged; a validation that says why they could not is made again.

        Raises:
            CaseError: the folder holds another sweep, or cannot be written; two cases with one id.
        """
        from filelock import FileLock

        self._graphs, self._judged, self._written = graphs, frozenset(judged), set()
        try:
            (self.folder / "claims").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CaseError(f"cannot write to {self.folder}: {error.strerror}. do: choose another folder") from error
        mine = Manifest(cases=_digest(cases), rules=json.loads(json.dumps(rules)))
        with FileLock(self.folder / "claims" / "sweep.lock"):
            path = self.folder / "sweep.json"
            if not path.exists():
                write_cases(self.folder / "cases.jsonl", cases)
                _write_json(path, mine.model_dump(mode="json"))
            elif what := _differs(validated(Manifest, _read_json(path), str(path)), mine):
                raise CaseError(f"{self.folder} holds a sweep with other {what}. do: choose another folder")
            self._remember(models)

    def models(self) -> list[str]:
        """The models in the order in which they were asked for, which the names of records do not tell."""
        path = self.folder / "models.json"
        return list(validated(Models, _read_json(path), str(path)).models) if path.exists() else []

    def _remember(self, models: Sequence[str]) -> None:
        known = self.models()
        if new := [name for name in dict.fromkeys(models) if name not in known]:
            _write_json(self.folder / "models.json", {"models": [*known, *new]})

    def cases(self) -> list[Case]:
        """The cases of the sweep.

        Raises:
            CaseError: the folder holds no sweep.
        """
        if not (self.folder / "sweep.json").is_file():
            raise CaseError(f"{self.folder} holds no sweep (sweep.json is missing)")
        return read_cases(self.folder / "cases.jsonl")

    def path(self, item: Item, suffix: str = ".json") -> Path:
        return self.folder / "items" / f"{item.name}{suffix}"

    def done(self, item: Item) -> bool:
        if not self.path(item).exists():
            return False
        if item.stage == "validate":
            return not self._lacks_verdicts(item)
        if not self._graphs or self.path(item, GRAPH).exists():
            return True
        record = self.read(item)
        return record is not None and bool(record.error)  # it would fail again

    def _lacks_verdicts(self, item: Item) -> bool:
        """Whether answers were not judged that can be judged now."""
        if item.case not in self._judged or item in self._written:
            return False
        record = self.read(item)
        return isinstance(record, Validated) and record.validation is not None and bool(record.validation.unjudged)

    @contextmanager
    def claim(self, item: Item) -> Iterator[bool]:
        """Hold an item; yields False where another process has it, or has finished it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / "claims" / f"{item.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            raise CaseError(f"cannot write to {self.folder}: {error.strerror}. finished items are kept") from error
        try:
            yield not self.done(item)
        finally:
            lock.release()

    def write(self, item: Item, record: Record) -> None:
        """Finish an item.

        Raises:
            LrpError: the disk is full, or the like; finished items stay.
        """
        _write_json(self.path(item), to_line(record))
        self._written.add(item)

    def read(self, item: Item) -> Record | None:
        """The record of a finished item."""
        path = self.path(item)
        return validated(KINDS[item.stage], _read_json(path), str(path)) if path.exists() else None

    def records(self, kind: type[Kind]) -> list[Kind]:
        """All records of one kind, ordered by model, composite and place among the cases.

        Raises:
            CaseError: a file that is no record, or the folder holds no sweep.
        """
        order = {case.id: place for place, case in enumerate(self.cases())}
        models = {name: place for place, name in enumerate(self.models())}
        stage = next(name for name, known in KINDS.items() if known is kind)
        paths = sorted((self.folder / "items").glob(f"{stage}-*.json"))
        found = [validated(kind, _read_json(path), str(path)) for path in paths]
        return sorted(found, key=lambda r: _place(r, models, order))

    def graphs(self) -> dict[tuple[str, str, str], Path]:
        """Files of attribution graphs by case, model and composite."""
        found = {}
        for record in self.records(Attributed):
            path = self.path(Item("attribute", record.model, record.case, record.composite), GRAPH)
            if path.exists():
                found[record.case, record.model, record.composite] = path
        return found


def _differs(theirs: Manifest, mine: Manifest) -> str:
    """In what a folder's sweep differs from the one that is asked for; empty where in nothing."""
    if theirs.cases != mine.cases:
        return "cases"
    if bool(theirs.rules) != bool(mine.rules):
        return f"options of validation ({'with' if theirs.rules else 'without'} validation there)"
    there, here = ({**EARLIER_RULES, **rules} if rules else {} for rules in (theirs.rules, mine.rules))
    other = [name for name in sorted(there | here) if there.get(name) != here.get(name)]
    words = (f"{name.replace('_', '-')} {there.get(name)} there, {here.get(name)} here" for name in other)
    return f"options of validation ({'; '.join(words)})" if other else ""


def _place(record: Record, models: dict[str, int], cases: dict[str, int]) -> tuple[int, str, str, int]:
    composite = getattr(record, "composite", "")
    return models.get(record.model, len(models)), record.model, composite, cases.get(record.case, len(cases))


def _digest(cases: Sequence[Case]) -> str:
    lines = json.dumps([to_line(case) for case in cases], sort_keys=True)
    return hashlib.sha256(lines.encode(errors="surrogatepass")).hexdigest()


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    text = json.dumps(fields, ensure_ascii=False, indent=1, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode(errors="surrogatepass")))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaseError(f"cannot read {path}: {error}") from error
    if not isinstance(row, dict):
        raise CaseError(f"{path}: an object is expected, not {type(row).__name__}")
    return row
