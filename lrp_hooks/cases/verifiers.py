"""What judges the answers to cases, and why some cannot be judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.registry import BENCHMARKS, problems
from lrp_hooks.cases.judge import Judge
from lrp_hooks.cases.sandbox import permission
from lrp_hooks.cases.schema import Case
from lrp_hooks.errors import ExecutionError, InputError, ModelLoadError


@dataclass(frozen=True)
class Verifiers:
    """The verifiers that cases carry with them, and those of the benchmarks that the others come from.

    Attributes:
        problems: with their verifiers, by a case's ``source``.
        missing: why the problems of a benchmark are not there, by its name.
    """

    problems: Mapping[str, Problem] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def problem(self, case: Case) -> Problem | None:
        """What an answer to the case must do: what it says itself, or its benchmark."""
        return Problem.of(case) or self.problems.get(case.source)

    def executes(self, cases: Iterable[Case]) -> bool:
        """Whether answers to some of them are judged by running them."""
        return any(problem is not None and problem.executes for problem in map(self.problem, cases))

    def lacking(self, case: Case) -> str:
        """Why answers to the case cannot be judged; empty where they can."""
        problem = self.problem(case)
        if problem is None:
            return self._unknown(case.source)
        if case.response is None:
            return "the case does not hold the whole answer that failed. do: add the field 'response'"
        if not problem.comparable:
            return "the official verdict is random"
        try:
            if problem.executes:
                permission()
        except ExecutionError as error:
            return str(error)
        return ""

    def _unknown(self, source: str) -> str:
        name = benchmark_of(source)
        if name in self.missing:
            return self.missing[name]
        if name in BENCHMARKS:
            return f"the problem {source!r} is not in the data of {name}. do: give the file that holds it with --data"
        return (
            f"the case has no verifiers (instruction_ids) and names no benchmark as its source: {source!r}. "
            f"do: write one into it, such as 'ifeval:1000'; choices: {', '.join(BENCHMARKS)}"
        )

    def judge(self, case: Case) -> Judge:
        """Compares answers with the one that failed.

        Raises:
            InputError: the case has no verifiers.
        """
        problem = self.problem(case)
        if problem is None:
            raise InputError(self._unknown(case.source))
        before = tuple(each.passes(case.response or "") for each in problem.instructions)
        return Judge(problem.instructions, before, prompt=problem.prompt)


def benchmark_of(source: str) -> str:
    """The benchmark that a case's ``source`` names, such as "ifeval" of "ifeval:1000"."""
    return source.partition(":")[0]


def verifiers_of(cases: Iterable[Case], files: Mapping[str, Path] | None = None) -> Verifiers:
    """The verifiers of the benchmarks whose cases carry none. A benchmark without data is left out, with the reason.

    Args:
        files: local data by name of the benchmark.

    Raises:
        InputError: a file that no case needs.
        CaseError: a file with errors (names line and field).
    """
    files = files or {}
    wanted = needed(cases)
    if unused := sorted(files.keys() - set(wanted)):
        raise InputError(
            f"no case needs the data of {unused[0]}: none comes from it, or they carry their verifiers. "
            f"needed: {', '.join(wanted) or 'none'}"
        )
    found: dict[str, Problem] = {}
    missing: dict[str, str] = {}
    for name in wanted:
        try:
            found |= {problem.id: problem for problem in problems(name, path=files.get(name))}
        except (InputError, ModelLoadError) as error:
            missing[name] = str(error)
    return Verifiers(found, missing)


def needed(cases: Iterable[Case]) -> list[str]:
    """The benchmarks from which cases without verifiers of their own come."""
    return sorted({benchmark_of(case.source) for case in cases if not case.instruction_ids} & BENCHMARKS.keys())


def data_files(given: Iterable[str], cases: Iterable[Case]) -> dict[str, Path]:
    """Files by benchmark, from ``NAME=FILE``, or from ``FILE`` where the data of one benchmark is needed.

    Raises:
        InputError: it is open whose data a file is, or a benchmark has two.
    """
    wanted = needed(cases)
    files: dict[str, Path] = {}
    for text in given:
        name, _, path = text.partition("=")
        if name not in BENCHMARKS or not path:
            if len(wanted) != 1:
                theirs = ", ".join(wanted) or "no benchmark"
                raise InputError(f"whose data is {text}? the cases need that of {theirs}. do: --data NAME={text}")
            name, path = wanted[0], text
        if name in files:
            raise InputError(f"two files of {name}: {files[name]} and {path}. do: give one")
        files[name] = Path(path)
    return files
