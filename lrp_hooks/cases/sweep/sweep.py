"""Cases x models x composites: attribution, breakdown and validation of each, by one process or many.

Every item is written once, when it is finished. A run that was cut off is run again and does what is left; processes
that share a folder share the work.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lrp_hooks.cases.answers.run import Clock, Pace
from lrp_hooks.cases.schema import Case
from lrp_hooks.cases.sweep.records import Attributed, Item, Record, Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.workbench import Workbench, unjudged
from lrp_hooks.cases.validation.validate import Rules
from lrp_hooks.cases.verifiers import Verifiers
from lrp_hooks.errors import InputError, LrpError, first_line
from lrp_hooks.loading.loaded import LoadedModel

COMPOSITES = ("attnlrp", "cp-lrp", "gradient")
PAUSE = 0.5
"""Seconds between looks at what other processes are working on."""


@dataclass(frozen=True)
class Plan:
    """What is swept.

    Attributes:
        models: as `ModelSpec` reads them.
        composites: rule tables by name.
        rules: how to validate; None leaves it out.
        graphs: also write the attribution graph of each item.
    """

    models: tuple[str, ...]
    composites: tuple[str, ...] = COMPOSITES
    rules: Rules | None = field(default_factory=Rules)
    graphs: bool = False

    def __post_init__(self) -> None:
        from lrp_hooks.composites import resolve

        if not self.models or not self.composites:
            raise InputError("a sweep needs a model and a composite")
        for name in self.composites:
            resolve(name)

    def items(self, cases: Sequence[Case], model: str) -> list[Item]:
        """The work with one model: attribution composite by composite, then validation."""
        made = [Item("attribute", model, case.id, composite) for composite in self.composites for case in cases]
        return made + ([Item("validate", model, case.id) for case in cases] if self.rules is not None else [])


@dataclass(frozen=True)
class Part:
    """Which cases are this process's: every ``count``-th from ``number`` on; all of them when they are claimed."""

    number: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Part:
        """RANK and WORLD_SIZE, as `accelerate launch` and `torchrun` set them.

        Raises:
            InputError: they are no numbers that fit together.
        """
        try:
            part = cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
        except ValueError as error:
            raise InputError(f"RANK and WORLD_SIZE must be whole numbers: {error}") from error
        if not 0 <= part.number < part.count:
            raise InputError(f"RANK={part.number} is outside 0..{part.count - 1} (WORLD_SIZE={part.count})")
        return part

    def of(self, cases: Sequence[Case]) -> list[Case]:
        return list(cases[self.number :: self.count])


def left(cases: Sequence[Case], plan: Plan, store: Store) -> int:
    """How many items of the whole plan are not finished, whoever works on them."""
    return sum(not store.done(item) for model in plan.models for item in plan.items(cases, model))


def sweep(
    cases: Sequence[Case],
    plan: Plan,
    store: Store,
    load: Callable[[str], LoadedModel],
    *,
    part: Part | None = None,
    verifiers: Verifiers | None = None,
    tell: Callable[[Pace], None] | None = None,
) -> int:
    """Do everything in the plan that is not in the store yet; return how many items this process did.

    An item that fails is recorded with its error and does not stop the others. A validation whose answers could not be
    judged is made again once they can be.

    Args:
        load: makes the model of a name.
        part: this process's share, where processes cannot see each other's locks. Default: all.
        verifiers: judge the answers after the prediction has changed. Default: none, which each record says.

    Raises:
        CaseError: the folder holds another sweep, or cannot be written.
        ModelLoadError: a model cannot be loaded.
        InputError: a model's tokenizer has no token for the replacement that is asked for.
    """
    verifiers, rules = verifiers or Verifiers(), plan.rules
    judged = [case.id for case in cases if rules is not None and not unjudged(case, rules, verifiers)]
    store.open(cases, asdict(rules) if rules is not None else {}, plan.models, graphs=plan.graphs, judged=judged)
    mine = (part or Part()).of(cases)
    todo = {model: [i for i in plan.items(mine, model) if not store.done(i)] for model in plan.models}
    total = sum(len(plan.items(mine, model)) for model in plan.models)
    clock = Clock(total, total - sum(map(len, todo.values())), tell)
    count = 0
    for model, items in todo.items():
        if items:
            with Workbench(load(model), model, plan, mine, store, verifiers) as bench:
                for item in _claimed(store, items):
                    store.write(item, _made(bench, item))
                    count += 1
                    clock.add(0)
    return count


def _claimed(store: Store, items: Sequence[Item]) -> Iterator[Item]:
    """Items as they can be had, held while they are worked on.

    Validation rests on the attribution of the same case: where another process holds that, it is waited for.
    """
    left = dict.fromkeys(items)
    needed = Counter(item.case for item in items if item.stage == "attribute")
    while left:
        before = len(left)
        for item in list(left):
            if item.stage == "validate" and needed[item.case]:
                continue
            with store.claim(item) as free:
                if free:
                    yield item
            if store.done(item):
                del left[item]
                needed[item.case] -= item.stage == "attribute"
        if len(left) == before:
            if not any(item.stage == "validate" and needed[item.case] for item in left):
                return  # others are at work on all that is left
            time.sleep(PAUSE)


def _made(bench: Workbench, item: Item) -> Record:
    """The record of an item, or what went wrong with it."""
    began = time.monotonic()
    fields: dict[str, Any] = {"case": item.case, "model": item.model}
    try:
        record = bench.attributed(item) if item.stage == "attribute" else bench.validated(item)
    except LrpError as error:
        fields["error"] = str(error)
    except Exception as error:  # one bad case is not the end of the sweep
        fields["error"] = f"{type(error).__name__}: {first_line(error)}"
    else:
        return record.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
    return Attributed(composite=item.composite, **fields) if item.stage == "attribute" else Validated(**fields)
