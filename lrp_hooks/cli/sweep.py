"""``lrp-hooks sweep``: attribute, break down and validate cases with models and composites; report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lrp_hooks.cases.schema import Case, read_cases
from lrp_hooks.cases.sweep.patterns import LABELS, read_labels
from lrp_hooks.cases.sweep.records import Attributed, Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import COMPOSITES, Part, Plan, left, sweep
from lrp_hooks.cases.validation.validate import Rules
from lrp_hooks.cases.verifiers import Verifiers, data_files, verifiers_of
from lrp_hooks.errors import CaseError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.loading.model import DTYPES

if TYPE_CHECKING:
    from lrp_hooks.render.failures import Report


@dataclass(frozen=True)
class ModelSpec:
    """A model as the command line names it: ``NAME``, ``NAME@REVISION``, either with ``:DTYPE`` behind."""

    name: str
    revision: str | None = None
    dtype: str = "auto"

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        rest, _, dtype = text.rpartition(":")
        if dtype not in DTYPES or not rest:
            rest, dtype = text, "auto"
        name, _, revision = rest.rpartition("@")
        return cls(name, revision, dtype) if name and revision else cls(rest, None, dtype)


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        least: only cases whose target leads by more logits.
        limit: at most so many cases.
        data: ``FILE`` or ``NAME=FILE``: problems that the cases come from.
        allow_exec, allow_network: programs that the model writes may be run; without the kernel's isolation.
    """

    cases: Path
    out: Path
    plan: Plan
    least: float | None = None
    limit: int | None = None
    device: str | None = None
    data: tuple[str, ...] = ()
    allow_exec: bool = False
    allow_network: bool = False


def rules(
    replacements: Sequence[str] | None, most: int, draws: int, where: str, until_pass: bool, max_new_tokens: int
) -> Rules:
    """How the options ask to validate.

    Raises:
        InputError: an unknown replacement, or part to mask.
    """
    chosen: Any = tuple(replacements or ("neutral",))
    return Rules(chosen, most, draws, where, until_pass=until_pass, max_new_tokens=max_new_tokens)


def plan(models: Sequence[str], composites: Sequence[str] | None, rules: Rules | None, *, graphs: bool) -> Plan:
    """What the options ask for.

    Raises:
        LrpError: an unknown composite.
    """
    return Plan(tuple(models), tuple(composites or COMPOSITES), rules, graphs)


def load(text: str, device: str | None, notes: Console) -> LoadedModel:
    """The model that a spec names."""
    from lrp_hooks.cli.attribute import working
    from lrp_hooks.loading.model import load_model

    spec = ModelSpec.parse(text)
    with working(notes, f"loading {text}"):
        options: Any = {"dtype": spec.dtype, "device": own_device(device), "revision": spec.revision}
        return load_model(spec.name, causal_for="lrp-hooks sweep", **options)


def own_device(device: str | None) -> str | None:
    """``cuda`` is this process's own GPU where a launcher has numbered the processes of a machine (LOCAL_RANK)."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


def chosen(path: Path, least: float | None, limit: int | None) -> list[Case]:
    """The cases of a file that have a target and a contrast, the clear ones only where a least difference is given.

    Raises:
        CaseError: a malformed file, or none is left.
    """
    cases = [case for case in read_cases(path) if case.target is not None and case.contrast is not None]
    if not cases:
        raise CaseError(
            f"{path} holds no case to sweep: none has target and contrast. "
            "do: cases find looks for them in answers, which cases run and cases convert --to answers write"
        )
    if least is not None:
        cases = [case for case in cases if case.delta_logit is None or case.delta_logit > least]
    if not cases:
        raise CaseError(f"{path} holds no case to sweep: in none the target leads by more than {least} logits")
    return cases[:limit]


def run(request: Request) -> None:
    """The whole command."""
    from lrp_hooks.cli.attribute import consoles
    from lrp_hooks.cli.cases import progress, running

    console, notes = consoles()
    many = chosen(request.cases, request.least, request.limit)
    store, part, plan = Store(request.out), Part.from_environment(), request.plan
    known = verifiers_of(many, data_files(request.data, many)) if plan.rules is not None else Verifiers()
    runs = request.allow_exec and known.executes(
        many
    )  # without leave the report says that those answers are not judged
    with running(runs, request.allow_exec, request.allow_network), progress(notes, "items") as tell:
        made = sweep(
            many, plan, store, lambda name: load(name, request.device, notes), part=part, verifiers=known, tell=tell
        )
    notes.print(f"{made} items done by this process", markup=False, highlight=False)
    others = left(many, plan, store)
    if others and part.count > 1:
        words = f"{others} items are with other processes; the last one to finish writes the report"
        notes.print(words, markup=False, highlight=False)
    else:
        report(store, console, notes)


def report(store: Store, console: Console, notes: Console) -> None:
    """Print the tables and write the report."""
    from lrp_hooks.render.failures_tables import overview

    made = read_report(store)
    console.print(overview(made), markup=False, highlight=False)
    write(made, store, notes)


def read_report(store: Store) -> Report:
    """What a sweep's folder holds."""
    from lrp_hooks.render.failures import Report

    labels = read_labels(store.folder / LABELS)
    return Report(store.cases(), store.records(Attributed), store.records(Validated), labels, store.graphs())


def write(report: Report, store: Store, notes: Console) -> None:
    """The report's files, into the folder of the sweep."""
    from lrp_hooks.render.failures import write_report

    for path in write_report(report, store.folder):
        notes.print(f"wrote {path}", markup=False, highlight=False)
