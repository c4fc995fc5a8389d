"""From failed answers of a benchmark to validated causes, on the demo model: what the search finds, what masking says.

    python -m benchmarks.failures                           # IFEval's first 120 prompts, about an hour on one core
    python -m benchmarks.failures --folder F --prompts 40   # another folder, and how many prompts; nothing is written
    python -m benchmarks.failures --page                    # only the figures of docs/failures.md, from the result

Answers, outcomes and the sweep stay in the folder; each stage goes on where it stopped, and its processor time is added
up.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, write_result

RESULT = RESULTS / "failures.json"
PAGE = Path(__file__).parent.parent / "docs" / "failures.md"
BEGIN, END = "<!-- figures: python -m benchmarks.failures -->", "<!-- end of figures -->"
PROMPTS, ALTERNATIVES, BUDGET, MOST, DRAWS = 120, 10, 2000, 8, 2
FOLDER = Path("demo/failures120")
KINDS = {
    "one-way": "an instruction broke here",
    "before-one-way": "one token before",
    "stop": "the answer should have ended",
    "marker": "what is missing was nearly said",
    "end": "the answer ended too soon",
    "before-end": "one token before its end",
    "success-drop": "the chance of success fell",
    "first": "another answer altogether",
    "random": "anywhere (control)",
}


def stages(folder: Path, prompts: int) -> dict[str, list[str]]:
    """Name -> command line; the same that docs/failures.md tells."""
    answers, found, cases = (str(folder / f"{name}.jsonl") for name in ("answers", "found", "cases"))
    search = ["--alternatives", str(ALTERNATIVES), "--budget", str(BUDGET), "--control", "1"]
    sweep = ["--model", "demo", "--min-difference", "1", "--most", str(MOST), "--draws", str(DRAWS)]
    return {
        "run": ["cases", "run", "demo", "--limit", str(prompts), "-o", answers],
        "find": ["cases", "find", "demo", answers, *search, "-o", found, "--cases", cases],
        "sweep": ["sweep", cases, *sweep, "-o", str(folder / "sweep")],
    }


def run(folder: Path, prompts: int) -> dict[str, dict[str, float]]:
    """Every stage, as far as it is not done; what each has taken so far: seconds, and seconds of the processor."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "seconds.json"
    spent: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    for name, words in stages(folder, prompts).items():
        began, before = time.perf_counter(), _children()
        subprocess.run([sys.executable, "-m", "lrp_hooks", *words], check=True)
        taken = {"wall": time.perf_counter() - began, "processor": _children() - before}
        old = spent.get(name, {})
        spent[name] = {key: round(old.get(key, 0.0) + value, 1) for key, value in taken.items()}
        file.write_text(json.dumps(spent))
    return spent


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def collect(folder: Path) -> dict[str, Any]:
    """What the folder holds, in numbers: answers, search, cases, rankings over all clear cases and by kind."""
    from lrp_hooks.cases.answers.run import read_answers
    from lrp_hooks.cases.search.find import read_outcomes, summarize
    from lrp_hooks.cases.sweep.store import Store
    from lrp_hooks.cli.sweep import read_report

    answers = read_answers(folder / "answers.jsonl")
    outcomes = read_outcomes(folder / "found.jsonl")
    report = read_report(Store(folder / "sweep"))
    cases = [
        {
            "id": case.id,
            "kind": case.kind,
            "position": case.position,
            "target": case.target and case.target.text,
            "contrast": case.contrast and case.contrast.text,
            "contrast_rank": case.contrast and case.contrast.rank,
            "difference": case.delta_logit,
            "passes": case.passes,
        }
        for case in (each.case for each in outcomes)
        if case is not None
    ]
    return {
        "answers": {
            "all": len(answers),
            "pass": sum(each.passed for each in answers),
            "fail": sum(each.failed for each in answers),
        },
        "search": asdict(summarize(outcomes)),
        "cases": cases,
        "kinds": by_kind(report),
        "rows": [asdict(row) for row in report.rankings],
    }


def by_kind(report: Any) -> list[dict[str, Any]]:
    """Mean words until the first choice changes, per kind of case and ranking."""
    from lrp_hooks.cases.validation.statistics import ranking_rows

    kinds = {case.id: case.kind for case in report.cases}
    groups: dict[str, list[Any]] = {}
    for record in report.validated:
        if record.validation is not None:
            groups.setdefault(kinds[record.case], []).append(record)
    return [
        {"kind": kind, "cases": len(records), **{row.ranking: row.words.mean for row in ranking_rows(records)}}
        for kind, records in groups.items()
    ]


def figures(result: dict[str, Any]) -> str:
    """The part of docs/failures.md between the marks."""
    parts = (_search(result), _rankings(result), _kinds(result), _time(result))
    return "\n".join([BEGIN, "", *(line for part in parts for line in (*part, "")), END])


def _search(result: dict[str, Any]) -> Iterator[str]:
    answers, found = result["answers"], result["search"]
    yield f"Of {answers['all']} answers {answers['pass']} pass and {answers['fail']} fail; all of these were searched."
    yield ""
    yield "| | count |"
    yield "|---|---|"
    yield f"| cases found | {found['kept']} |"
    yield f"| clear (Δ > 1 logit) | **{found['clear']} ({found['clear'] / found['searched']:.1%})** |"
    yield f"| the repaired answer follows every instruction | {found['passing']} |"
    yield f"| at position 0: another answer altogether | {found['first']} |"
    for reason, count in found["reasons"].items():
        yield f"| dropped: {reason} | {count} |"
    yield f"| tokens of continuations | {found['tokens']:,}, {found['tokens'] / found['searched']:,.0f} per failure |"
    yield ""
    yield "| where | | cases | alternatives tried | of them good |"
    yield "|---|---|---|---|---|"
    for kind, words in KINDS.items():
        tried, good = found["repairs"].get(kind, (0, 0))
        if tried:
            kept = found["kinds"].get(kind, 0)
            yield f"| `{kind}` | {words} | {'' if kind == 'random' else kept} | {tried} | {good / tried:.1%} |"


def _rankings(result: dict[str, Any]) -> Iterator[str]:
    rows = result["rows"]
    yield f"The {rows[0]['words']['count']} clear cases, attributed and validated; words replaced by ` _`:"
    yield ""
    yield "| ranking | words to flip (median) | flipped | contrast leads | answer passes | words more than the first |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        shares = " | ".join(_percent(row[name]) for name in ("changed", "overtaken", "passes"))
        more = "" if row["difference"] is None else _interval(row["difference"], "+.2f")
        yield f"| {row['ranking']} | {_interval(row['words'], '.2f')} ({row['middle']:g}) | {shares} | {more} |"


def _kinds(result: dict[str, Any]) -> Iterator[str]:
    names = [row["ranking"] for row in result["rows"]]
    yield f"| words to flip, by kind | cases | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for row in sorted(result["kinds"], key=lambda each: list(KINDS).index(each["kind"])):
        yield f"| `{row['kind']}` | {row['cases']} | {' | '.join(f'{row[name]:.2f}' for name in names)} |"


def _time(result: dict[str, Any]) -> Iterator[str]:
    parts = [f"`{name}` {spent['processor'] / 60:.0f}" for name, spent in result["seconds"].items()]
    yield f"Minutes of one core: {', '.join(parts)}. Commit {result['commit']}, {result['cores']} cores."


def _interval(value: dict[str, float], form: str) -> str:
    return f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _percent(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['mean']:.0%} [{value['low']:.0%}, {value['high']:.0%}]"


def write_page() -> None:
    """Put the figures of the committed result into docs/failures.md."""
    text, result = PAGE.read_text(encoding="utf-8"), json.loads(RESULT.read_text())
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + figures(result) + after, encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the stages keep their files")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help=f"how many; only {PROMPTS} are recorded")
    parser.add_argument("--page", action="store_true", help="only write the page's figures")
    options = parser.parse_args(words)
    if not options.page:
        seconds = run(options.folder, options.prompts)
        found = collect(options.folder)
        if options.prompts != PROMPTS:
            print(figures({**found, "seconds": seconds, "commit": "", "cores": ""}))
            return 0
        write_result("failures", found.pop("rows"), seconds=seconds, **found)
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
