"""Run the suites behind their gates and write the report.

python -m benchmarks                     # everything: benchmarks/results/*.json and docs/benchmarks.md
python -m benchmarks --resume            # the same, without suites whose result is of this very commit
python -m benchmarks graph planted       # some suites
python -m benchmarks --smoke             # short profiles, nothing written; fails when a ratio got worse; what CI runs
python -m benchmarks --smoke --record    # the same, and remember the numbers as what the next run is compared with
python -m benchmarks --base main         # smoke profiles of this tree and of another commit, side by side
python -m benchmarks --profile           # a profiler trace, and time and memory per module
python -m benchmarks --report            # only the report, from the committed results
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.run import run_all, run_smoke
from benchmarks.suites import SUITES, Suite


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    names = ", ".join(suite.name + ("*" if suite.alone else "") for suite in SUITES)
    made.add_argument("suites", nargs="*", metavar="SUITE", help=f"which: {names} (*: only when named)")
    made.add_argument("--smoke", action="store_true", help="short profiles without gates; fails beyond a ratio's noise")
    made.add_argument("--record", action="store_true", help="with --smoke: remember the numbers")
    made.add_argument("--resume", action="store_true", help="skip suites whose result is of this commit")
    made.add_argument("--base", metavar="COMMIT", help="smoke profiles of this tree beside those of COMMIT")
    made.add_argument("--profile", action="store_true", help="profiler trace, time and memory per module")
    made.add_argument("--tokens", type=int, default=256, help="prompt length for --profile")
    made.add_argument("--report", action="store_true", help="only write the report")
    return made


def chosen(names: list[str]) -> list[Suite]:
    """The suites of these names; without names all that do not run alone.

    Raises:
        ValueError: an unknown name; lists the choices.
    """
    known = {suite.name: suite for suite in SUITES}
    for name in names:
        if name not in known:
            raise ValueError(f"unknown suite {name!r}. choices: {', '.join(known)}")
    return [known[name] for name in names] or [suite for suite in SUITES if not suite.alone]


def main() -> int:
    command = parser()
    options = command.parse_args()
    try:
        suites = chosen(options.suites)
    except ValueError as error:
        command.error(str(error))
    if options.report:
        from benchmarks.report import write_report

        write_report()
        return 0
    if options.profile:
        from benchmarks.profiling import profile

        profile(options.tokens)
        return 0
    if options.base:
        from benchmarks.base import compare

        return compare([suite for suite in suites if suite.smoke], options.base)
    if options.smoke:  # the tests run beside it
        return run_smoke([suite for suite in suites if suite.smoke], record=options.record)
    return run_all(suites, resume=options.resume)


if __name__ == "__main__":
    sys.exit(main())
