"""Masking until the answer passes: which answers are asked for, and what is made of the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import cases as tiny_cases
from tiny import loaded

from lrp_hooks.cases.inputs import CaseInput, case_input
from lrp_hooks.cases.judge import Judge
from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.sweep.records import Validated
from lrp_hooks.cases.validation import validate as module
from lrp_hooks.cases.validation.masking import Effect, Masker, mask_id
from lrp_hooks.cases.validation.repair import Repair, continuation
from lrp_hooks.cases.validation.statistics import ranking_rows, unjudged
from lrp_hooks.cases.validation.validate import Flip, Rules, Validation, validate
from lrp_hooks.cases.verify import Instruction
from lrp_hooks.errors import ContextLengthError, InputError
from lrp_hooks.render.failures import Report
from lrp_hooks.render.failures_tables import validation_table
from lrp_hooks.segments import Segment
from lrp_hooks.tokens import TokenText


class Planted:
    """A masker of one-token words: the prediction changes once word 3 is masked, and never back."""

    def effects(self, masks: Any) -> list[Effect]:
        return [Effect(8 if 3 in mask else 7, 1.0, 0.0) for mask in masks]

    def ids(self, mask: frozenset[int]) -> list[int]:
        return sorted(mask)


class Verdicts:
    """Passes inputs in which certain words are masked and no others of some; remembers what it was asked."""

    def __init__(self, needed: set[int], spoiled: set[int] = frozenset()):  # type: ignore[assignment]
        self._needed, self._spoiled, self.rounds = needed, spoiled, list[list[list[int]]]()

    def verdicts(self, given: CaseInput, rows: list[list[int]]) -> list[bool]:
        self.rounds.append(rows)
        return [self._needed <= set(row) and not self._spoiled & set(row) for row in rows]


ORDERS = {"best": (3, 1, 0, 2, 4), "late": (0, 1, 2, 3, 4), "never": (4, 0, 2, 1, 3)}


def checked(monkeypatch: pytest.MonkeyPatch, repair: Any, **rules: Any) -> Validation:
    """Six one-token words; the last is where the question is asked. Three rankings."""
    monkeypatch.setattr(module, "Masker", lambda *_: Planted())
    tokens = tuple(TokenText(i, f" {letter}") for i, letter in enumerate("abcdef"))
    case = Case(id="a", prompt="a b c d e f", target=CaseToken(id=7), contrast=CaseToken(id=9))
    given = CaseInput(case, tuple(range(6)), 7, 9, tokens, (Segment("query", 0, 6),))
    scores = {name: [float(-order.index(i)) if i < 5 else 0.0 for i in range(6)] for name, order in ORDERS.items()}
    return validate(SimpleNamespace(), given, scores, Rules(draws=0, **rules), repair)  # type: ignore[arg-type]


def test_each_further_word_is_judged_until_the_answer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    repair = Verdicts({0, 1, 3})
    made = checked(monkeypatch, repair, most=4, until_pass=True)
    found = {flip.ranking: (flip.changed, flip.passes, flip.passed, flip.words) for flip in made.flips}
    assert found["best"] == (1, False, 3, ("d", "b", "a"))
    assert found["late"] == (4, True, 4, ("a", "b", "c", "d"))
    assert found["never"] == (None, False, None, ("e", "a", "c", "b"))  # not changed by four words: not asked
    # side by side, none before the change, none twice; "best" is asked about 3 and 4 at once and stops
    assert repair.rounds == [[[3], [0, 1, 2, 3]], [[1, 3]], [[0, 1, 3], [0, 1, 2, 3]]]
    assert made.until_pass


def test_the_fewest_words_count_and_a_pass_may_be_lost_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = checked(monkeypatch, Verdicts({0, 1, 3}, {2}), most=5, until_pass=True)
    assert {f.ranking: (f.passes, f.passed) for f in made.flips} == {
        "best": (False, 3),
        "late": (False, None),
        "never": (False, None),
    }


def test_nothing_more_is_asked_once_an_answer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    repair = Verdicts({3})
    made = checked(monkeypatch, repair, most=5, until_pass=True)
    assert [flip.passed for flip in made.flips] == [1, 4, 5]
    assert repair.rounds == [[[3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]]


def test_without_going_on_only_the_change_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    repair = Verdicts({0, 1, 3})
    made = checked(monkeypatch, repair, most=5)
    assert repair.rounds == [[[3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]]
    assert [(f.passes, f.passed) for f in made.flips] == [(False, None), (True, 4), (True, 5)]
    assert not made.until_pass


def test_answers_are_judged_by_one_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    made = checked(monkeypatch, Verdicts({3}), replacements=("pad", "deletion", "neutral"), most=5)
    assert {(f.replacement, f.passes is not None) for f in made.flips} == {
        ("pad", False),
        ("deletion", True),
        ("neutral", False),
    }


def test_a_verifier_that_fails_costs_the_verdicts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def verdicts(self, *_: Any) -> list[bool]:
            raise ContextLengthError("too long")

    made, plain = checked(monkeypatch, Broken()), checked(monkeypatch, None)
    assert made.flips == plain.flips
    assert (made.failure, plain.failure) == ("too long", "")
    (said,) = unjudged([Validated(case="a", model="m", validation=made)])
    assert said == "m: the answers to 1 case were not judged: too long"


@dataclass(frozen=True)
class Letters(Instruction):
    """At least so many letters; optionally given up from the beginning."""

    least: int
    lost: bool = False

    def holds(self, text: str) -> bool:
        return len(text) >= self.least

    def hopeless(self, text: str) -> bool:
        return self.lost


@pytest.mark.parametrize(("seed", "number", "least"), [(4, 1, 9), (2, 1, 6)])
def test_verdicts_are_those_of_plain_generation(seed: int, number: int, least: int) -> None:
    model = loaded(seed)
    given = case_input(model, tiny_cases(model, 3)[number])
    scores = {"up": list(map(float, range(99))), "down": list(map(float, range(99, 0, -1)))}
    repair = Repair(model, Judge((Letters(least),), (False,), min_words=0), max_new_tokens=40)
    made = validate(model, given, scores, Rules(most=6, draws=1, until_pass=True), repair)
    assert any(flip.passed is not None and flip.passed > flip.changed for flip in made.flips if flip.changed)
    for flip in made.flips[:2]:
        weight = {i: scores[flip.ranking][i] for i in range(99)}
        words = sorted(module.maskable_words(given, "input"), key=lambda word: -sum(map(weight.__getitem__, word)))
        masker, passed = Masker(model, given, "neutral"), None
        for count in range(flip.changed or 7, 7):
            ids = masker.ids(frozenset(i for word in words[:count] for i in word))
            passed = passed or (count if plainly_good(model.model, ids, least - 5) else None)
            if count == flip.changed:
                assert flip.passes is (passed is not None)
        assert flip.passed == passed


def plainly_good(model: Any, ids: Sequence[int], least: int) -> bool:
    """Without cache, batch and early end: 35 tokens at most, then the end marker, and letters enough."""
    said: list[int] = []
    while len(said) < 36:
        with torch.no_grad():
            token = int(model(torch.tensor([[*ids, *said]])).logits[0, -1].argmax())
        if token == 2:
            return sum(t > 5 for t in said) >= least and len(said) < 35
        said.append(token)
    return False


def test_an_answer_that_cannot_pass_is_given_up() -> None:
    model = loaded(1)
    given = case_input(model, tiny_cases(model, 1)[0])
    steps = [0]
    model.model.register_forward_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    for lost, most in ((True, 1), (False, 35)):
        steps[0] = 0
        judge = Judge((Letters(1, lost),), (False,), min_words=0)
        assert Repair(model, judge, 40).verdicts(given, [list(given.ids)]) == [False]  # it does not end by itself
        assert steps[0] == most


def test_an_input_is_run_once() -> None:
    model = loaded(4)
    given = case_input(model, tiny_cases(model, 1)[0])
    repair = Repair(model, Judge((Letters(1),), (False,), min_words=0), 40)
    first = repair.verdicts(given, [list(given.ids)] * 2)
    model.model.register_forward_hook(lambda *_: pytest.fail("run again"))
    assert repair.verdicts(given, [given.ids]) == first[:1] == first[1:]


def test_continuations_keep_the_space_that_a_decoder_drops() -> None:
    class Stripping:
        def decode(self, ids: Sequence[int], **_: Any) -> str:
            return "".join(("", " so", " it", "s")[i] for i in ids).removeprefix(" ")

    assert continuation(Stripping(), 1, [2, 3]) == " its"
    assert continuation(Stripping(), 0, [2, 3]) == "its"  # after a marker, which has no text


def test_a_mask_token_is_needed_to_mask_by_it() -> None:
    model = loaded()
    with pytest.raises(InputError, match=r"the tokenizer of tiny-0 has no mask token\. do: another replacement"):
        mask_id(model)
    model = replace(model, tokenizer=SimpleNamespace(mask_token_id=97))
    with pytest.raises(InputError, match="the mask token 97 of tiny-0 is outside its vocabulary of 97"):
        mask_id(model)


def judged(number: int, flips: Sequence[Flip], until_pass: bool = True, **fields: Any) -> Validated:
    made = Validation(words=20, most=10, flips=tuple(flips), until_pass=until_pass, **fields)
    return Validated(case=f"c{number}", model="m", validation=made)


def drawn(draw: int, changed: int | None, passes: bool | None, passed: int | None) -> Flip:
    return Flip(ranking="random", replacement="neutral", draw=draw, changed=changed, passes=passes, passed=passed)


def test_pass_rates_are_over_cases_and_a_draw_that_does_not_change_does_not_pass() -> None:
    records = [
        judged(0, [drawn(0, 1, True, 1), drawn(1, 2, False, 6)]),
        judged(1, [drawn(0, None, False, None), drawn(1, 1, True, 1)]),
        judged(2, [drawn(0, 1, None, None), drawn(1, 1, None, None)], unjudged="no verifier"),
        judged(3, [drawn(0, 1, True, 1), drawn(1, 1, True, 1)], until_pass=False),
    ]
    (row,) = ranking_rows(records)
    assert row.passes is not None
    assert row.passed is not None
    assert row.passed_words is not None
    assert (row.passes.mean, row.passes.count) == (pytest.approx((0.5 + 0.5 + 1) / 3), 3)
    assert (row.passed.mean, row.passed.count) == (pytest.approx((1 + 0.5) / 2), 2)
    assert (row.passed_words.mean, row.passed_words.count) == (pytest.approx((3.5 + 5.5) / 2), 2)
    assert row.passes.low < row.passes.mean < row.passes.high
    assert unjudged(records) == ["m: the answers to 1 case were not judged: no verifier"]


def test_a_table_has_columns_for_what_was_asked() -> None:
    going_on, stopping = (
        validation_table(Report((), (), [judged(0, [drawn(0, 1, True, 1)], until_pass)]))
        for until_pass in (True, False)
    )
    assert "words until it passes" in going_on["head"]
    assert "words until it passes" not in stopping["head"]
    assert "passes at the change" in stopping["head"]
    assert all(len(row) == len(stopping["head"]) for row in stopping["rows"])
    assert "words until it passes" in validation_table(Report((), (), ()))["head"]
