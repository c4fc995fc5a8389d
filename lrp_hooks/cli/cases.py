"""``lrp-hooks cases``: answer a benchmark, judge the answers, find the token at which a failed one went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrp_hooks.cli.convert import convert
from lrp_hooks.cli.label import label
from lrp_hooks.cli.options import AllowExec, AllowNetwork, Device, Dtype, ModelName, Revision

if TYPE_CHECKING:
    from rich.console import Console

    from lrp_hooks.cases.answers.run import Answer, Pace
    from lrp_hooks.cases.search.find import Summary

app = typer.Typer(help="Failed answers on benchmarks, and the tokens at which they went wrong.", no_args_is_help=True)
app.command()(convert)
app.command()(label)


@app.command()
def run(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of answers, .jsonl; a run that was cut off goes on.")],
    benchmark: Annotated[str, typer.Option(help="ifeval, gsm8k, math, humaneval, evalplus or own.")] = "ifeval",
    data: Annotated[Path | None, typer.Option(help="Its problems as JSONL. Default: from a package.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Only prompts with it, such as punctuation:no_comma.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many prompts.", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer.", min=1)] = 160,
    batch_size: Annotated[int, typer.Option(help="Prompts at the same time.", min=1)] = 8,
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    allow_exec: AllowExec = False,
    allow_network: AllowNetwork = False,
) -> None:
    """Answer a benchmark's prompts greedily and judge the answers by its rules."""
    from lrp_hooks.cases.answers.run import run_benchmark
    from lrp_hooks.cases.benchmarks.registry import problems
    from lrp_hooks.cli.attribute import consoles

    prompts = problems(benchmark, path=data, instruction=instruction, limit=limit)
    runs = any(each.executes for each in prompts)
    console, notes = consoles()
    with running(runs, allow_exec, allow_network), progress(notes, "prompts") as tell:
        loaded = _load(model, notes, dtype=dtype, device=device, revision=revision)
        answers = run_benchmark(loaded, prompts, out, batch_size=batch_size, max_new_tokens=max_new_tokens, tell=tell)
    show_answers(answers, console)
    notes.print(f"wrote {out}", markup=False, highlight=False)


@app.command()
def find(
    model: ModelName,
    answers: Annotated[Path, typer.Argument(help="File of answers, by 'cases run' or 'cases convert --to answers'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of outcomes, .jsonl; a cut-off search goes on.")],
    cases: Annotated[Path | None, typer.Option(help="Also write the cases that were found, .jsonl.")] = None,
    goal: Annotated[str, typer.Option(help="repair: an instruction more is followed; pass: all are.")] = "repair",
    alternatives: Annotated[int, typer.Option(help="Tokens that are tried at a position.")] = 10,
    samples: Annotated[int, typer.Option(help="Sampled continuations per position; 0: only one-way errors.")] = 8,
    budget: Annotated[int, typer.Option(help="Tokens of continuations per answer.")] = 6000,
    control: Annotated[int, typer.Option(help="Also try so many random positions per answer, as a control.")] = 0,
    reference: Annotated[
        str | None, typer.Option(help="A model of the same tokenizer; proposes tokens where the model's own fail.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many failed answers.", min=1)] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    allow_exec: AllowExec = False,
    allow_network: AllowNetwork = False,
) -> None:
    """Find target and contrast token of failed answers by continuations that the verifier judges."""
    from lrp_hooks.cases.answers.run import read_answers
    from lrp_hooks.cases.judge import Grade
    from lrp_hooks.cases.schema import write_cases
    from lrp_hooks.cases.search.find import find_cases, summarize
    from lrp_hooks.cases.search.stages import Settings
    from lrp_hooks.cli.attribute import consoles
    from lrp_hooks.errors import InputError

    goals = {"repair": Grade.REPAIRS, "pass": Grade.PASSES}
    if goal not in goals:
        raise InputError(f"unknown goal {goal!r}. choices: {', '.join(goals)}")
    settings = Settings(goals[goal], alternatives, samples=samples, budget=budget, control=control)
    failed = [answer for answer in read_answers(answers) if answer.failed][:limit]
    runs = any(each.executes for answer in failed for each in answer.instructions)
    console, notes = consoles()
    with running(runs, allow_exec, allow_network), progress(notes, "failed answers") as tell:
        loaded = _load(model, notes, dtype=dtype, device=device, revision=revision)
        asked = None if reference is None else _load(reference, notes, dtype=dtype, device=device)
        outcomes = find_cases(loaded, failed, out, settings=settings, reference=asked, tell=tell)
    show_summary(summarize(outcomes), console)
    if cases is not None:
        write_cases(cases, [each.case for each in outcomes if each.case is not None])
    for path in (out, *([cases] if cases is not None else [])):
        notes.print(f"wrote {path}", markup=False, highlight=False)


@contextmanager
def running(runs: bool, allow_exec: bool, allow_network: bool) -> Iterator[None]:
    """Programs may be run within, where that is needed and allowed; tried before a model is loaded.

    Raises:
        ExecutionError: it is not allowed, or the kernel cannot shut programs in.
    """
    from contextlib import nullcontext

    from lrp_hooks.cases.sandbox import Program, execution_allowed, permission, run_tests

    with execution_allowed(isolated=not allow_network) if allow_exec else nullcontext():
        if runs:
            permission()
            run_tests(Program("def f(): pass", "check = callable", "f"))
        yield


def _load(model: str, notes: Console, **options: Any) -> Any:
    from lrp_hooks.cli.attribute import working
    from lrp_hooks.loading.model import load_model

    with working(notes, f"loading {model}") as moving:
        return load_model(model, progress=not moving, causal_for="lrp-hooks cases", **options)


@contextmanager
def progress(notes: Console, what: str) -> Iterator[Callable[[Pace], None]]:
    """A bar with the time left on a terminal; otherwise a line now and then."""
    if not notes.is_terminal:
        yield lambda pace: _line(notes, what, pace)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=notes) as bar:
        task = bar.add_task("", total=None)

        def tell(pace: Pace) -> None:
            bar.update(task, total=pace.total, completed=pace.done, description=_words(pace))

        yield tell


def _line(notes: Console, what: str, pace: Pace) -> None:
    if pace.done == pace.total or pace.done % max(pace.total // 20, 1) == 0:
        parts = [f"{pace.done}/{pace.total} {what}", _words(pace)]
        notes.print(", ".join(part for part in parts if part), markup=False, highlight=False)


def _words(pace: Pace) -> str:
    """Speed, where tokens are counted, and the time left."""
    speed = f"{pace.tokens / max(pace.seconds, 1e-9):.0f} tokens/s" if pace.tokens else ""
    left = "" if pace.left is None else f"{pace.left / 60:.0f} min left"
    return ", ".join(part for part in (speed, left) if part)


def show_answers(answers: list[Answer], console: Console) -> None:
    """How many answers pass, fail, or could not be judged."""
    total = len(answers)
    rows = {
        "answers": total,
        "pass (strict)": sum(each.passed for each in answers),
        "pass (loose)": sum(bool(each.loosely) for each in answers),
        "fail": sum(each.failed for each in answers),
        "ended by themselves": sum(bool(each.ended) for each in answers),
        "errors": sum(each.error is not None for each in answers),
    }
    for name, count in rows.items():
        console.print(f"{name:<22}{count:>6}", highlight=False)


def show_summary(summary: Summary, console: Console) -> None:
    """Kept, dropped, and why."""
    rate = summary.clear / summary.searched if summary.searched else 0.0
    rows = {
        "failed answers searched": summary.searched,
        "cases": summary.kept,
        "  target leads by > 1 logit": summary.clear,
        "  repaired answer passes all": summary.passing,
        "  at position 0": summary.first,
        "  contrast proposed by the reference model": summary.proposed,
        **({"  of answers written elsewhere (teacher-forced)": summary.forced} if summary.forced else {}),
        **({"    whose target is the model's choice, too": summary.own_choice} if summary.forced else {}),
        **{f"  found by {kind}": count for kind, count in summary.kinds.items()},
        **{f"  good alternatives at {kind}": f"{good} of {n}" for kind, (n, good) in summary.repairs.items()},
        "dropped": summary.searched - summary.kept,
        **{f"  {reason}": count for reason, count in summary.reasons.items()},
    }
    for name, count in rows.items():
        console.print(f"{name:<46}{count:>12}", markup=False, highlight=False)
    pace = summary.tokens / summary.seconds if summary.seconds else 0.0
    console.print(f"clear case rate {rate:.1%}; {summary.tokens} tokens, {pace:.0f} tokens/s", highlight=False)
