"""How far a long command is: a bar with the time left on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
Told = Callable[[int, int], None]
"""Is told (steps done, steps in all)."""


@contextmanager
def pace(notes: Console, words: str) -> Iterator[Told]:
    """Shows what it is told; ``words`` say what the steps are."""
    if not notes.is_terminal:
        yield lines(words, lambda text: notes.print(text, markup=False, highlight=False))
        return
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def lines(words: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Told:
    """A line at most every ``EVERY`` seconds; the time left from the pace since the first step."""
    first: tuple[float, int] | None = None
    said = clock()

    def told(done: int, total: int) -> None:
        nonlocal first, said
        now = clock()
        if first is None or done < first[1]:
            first = now, done
        if now - said < EVERY or done >= total or done == first[1]:
            return
        said = now
        left = (now - first[0]) / (done - first[1]) * (total - done)
        say(f"{words} {done}/{total}, about {duration(left)} left")

    return told


def duration(seconds: float) -> str:
    """In words, rounded to what matters."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
