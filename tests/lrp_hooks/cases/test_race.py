"""Alternatives side by side: who is given up, and when."""

from __future__ import annotations

import pytest

from lrp_hooks.cases.judge import Grade
from lrp_hooks.cases.search.branch import Branch
from lrp_hooks.cases.search.race import Alternative, Race, Try

PASSES, REPAIRS, NOTHING = Grade.PASSES, Grade.REPAIRS, Grade.NO_BETTER


def race(*ended: tuple[int, int, Grade | None], clear: bool = True) -> Race:
    """Tries as (place, rank, grade once it has ended); ``clear``: whether the target leads all of them clearly."""
    graded: dict[int, Grade] = {}

    def grade(tried: Try) -> Alternative:
        found = graded[id(tried.branch)]
        return Alternative(1, tried.choice[1], 0.0, found, False, False, counts=found >= REPAIRS)

    made = Race(lambda branch: branch.stopped, grade)
    for order, rank, value in ended:
        branch = Branch(1, 9, [5], ended=value is not None)
        made.tries.append(Try(10 - order, order, (1, rank, 0.0), branch, clear))
        graded[id(branch)] = value or NOTHING
    return made


@pytest.mark.parametrize(
    ("others", "lost"),
    [
        ([], False),
        ([(1, 2, None)], False),
        ([(1, 2, NOTHING)], False),
        ([(1, 2, REPAIRS)], False),  # a lower rank that passes everything would still be better
        ([(1, 2, PASSES)], True),
        ([(1, 5, PASSES)], False),  # a worse rank at the same place
        ([(0, 5, REPAIRS)], True),  # an earlier place
        ([(2, 1, PASSES)], False),  # a later place
    ],
)
def test_a_branch_is_given_up_when_another_is_better_whatever_it_comes_to(
    others: list[tuple[int, int, Grade | None]], lost: bool
) -> None:
    made = race((1, 3, None), *others)
    assert made.lost(made.tries[0].branch) is lost


def test_an_earlier_place_without_a_clear_lead_does_not_end_the_later_ones() -> None:
    made = race((1, 3, None), (0, 5, PASSES), clear=False)
    assert not made.lost(made.tries[0].branch)
    made = race((0, 6, None), (0, 5, PASSES), clear=False)  # at the same place the better rank wins all the same
    assert made.lost(made.tries[0].branch)


def test_a_branch_that_is_in_vain_is_given_up() -> None:
    made = race((0, 1, None))
    made.tries[0].branch.stopped = True
    assert made.lost(made.tries[0].branch)
