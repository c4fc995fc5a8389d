"""``lrp-hooks sweep``: attribute, break down and validate cases with models and composites; report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.registry import problems
from lrp_hooks.cases.patterns import read_labels
from lrp_hooks.cases.records import Attributed, Validated
from lrp_hooks.cases.schema import Case, read_cases
from lrp_hooks.cases.store import Store
from lrp_hooks.cases.sweep import COMPOSITES, Part, Plan, left, sweep
from lrp_hooks.cases.validate import Rules
from lrp_hooks.errors import CaseError, ModelLoadError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.loading.model import DTYPES

PACKAGED = frozenset({"ifeval", "gsm8k"})
"""Benchmarks whose verdicts need no local file and run no program."""


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


def plan(
    models: Sequence[str],
    composites: Sequence[str] | None,
    replacements: Sequence[str] | None,
    most: int,
    draws: int,
    where: str,
    *,
    graphs: bool,
    validation: bool,
) -> Plan:
    """What the options ask for.

    Raises:
        InputError: an unknown replacement, composite, or part to mask.
    """
    chosen: Any = tuple(replacements or ("neutral",))
    rules = Rules(chosen, most, draws, where) if validation else None
    return Plan(tuple(models), tuple(composites or COMPOSITES), rules, graphs)


def load(text: str, device: str | None, notes: Console) -> LoadedModel:
    """The model that a spec names."""
    from lrp_hooks.cli.attribute import working
    from lrp_hooks.loading.model import load_model

    spec = ModelSpec.parse(text)
    with working(notes, f"loading {text}"):
        return load_model(spec.name, dtype=spec.dtype, device=own_device(device), revision=spec.revision)


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
    if least is not None:
        cases = [case for case in cases if case.delta_logit is None or case.delta_logit > least]
    if not cases:
        raise CaseError(f"{path} holds no case to sweep: none has target and contrast, or leads by enough")
    return cases[:limit]


def verifiers(cases: Sequence[Case], notes: Console) -> dict[str, Problem]:
    """The problems that the cases come from, with their verifiers, from the packages that ship them.

    Programs are not run here: cases whose answers are programs are left without a verdict.
    """
    found: dict[str, Problem] = {}
    for name in sorted({case.source.partition(":")[0] for case in cases} & PACKAGED):
        try:
            found |= {problem.id: problem for problem in problems(name)}
        except ModelLoadError as error:
            notes.print(f"answers are not verified: {error}", markup=False, highlight=False)
    return found


def run(cases: Path, plan: Plan, out: Path, *, least: float | None, limit: int | None, device: str | None) -> None:
    """The whole command."""
    from lrp_hooks.cli.attribute import consoles
    from lrp_hooks.cli.cases import progress

    console, notes = consoles()
    many = chosen(cases, least, limit)
    store, part = Store(out), Part.from_environment()
    prompts = verifiers(many, notes) if plan.rules is not None and plan.rules.continued else {}
    with progress(notes, "items") as tell:
        count = sweep(many, plan, store, lambda name: load(name, device, notes), part=part, prompts=prompts, tell=tell)
    notes.print(f"{count} items done by this process", markup=False, highlight=False)
    others = left(many, plan, store)
    if others and part.count > 1:
        words = f"{others} items are with other processes; the last one to finish writes the report"
        notes.print(words, markup=False, highlight=False)
    else:
        report(store, console, notes)


def report(store: Store, console: Console, notes: Console) -> None:
    """Print the tables and write the report."""
    from lrp_hooks.render.failures import Report, write_report
    from lrp_hooks.render.failures_tables import overview

    labels = read_labels(store.folder / "labels.jsonl")
    made = Report(store.cases(), store.records(Attributed), store.records(Validated), labels, store.graphs())
    console.print(overview(made), markup=False, highlight=False)
    for path in write_report(made, store.folder):
        notes.print(f"wrote {path}", markup=False, highlight=False)
