"""Words to flip: grouping, masking, and the statistics over cases."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import cases as tiny_cases
from tiny import loaded

from lrp_hooks.cases.inputs import CaseInput, case_input, fingerprint, words_of
from lrp_hooks.cases.judge import Judge
from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.sweep.breakdown import breakdown
from lrp_hooks.cases.sweep.records import Validated
from lrp_hooks.cases.validation import validate as module
from lrp_hooks.cases.validation.masking import Effect, Masker, neutral_id
from lrp_hooks.cases.validation.repair import Repair
from lrp_hooks.cases.validation.statistics import estimate, ranking_rows, verdict
from lrp_hooks.cases.validation.validate import Flip, Rules, Validation, batches, maskable_words, validate
from lrp_hooks.cases.verify import instruction
from lrp_hooks.errors import InputError, TokenError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.segments import Segment
from lrp_hooks.tokens import TokenText


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded()


@pytest.fixture(scope="module")
def given(model: LoadedModel) -> CaseInput:
    return case_input(model, tiny_cases(model, 1)[0])


def texts(*words: str) -> list[TokenText]:
    return [TokenText(i, word) for i, word in enumerate(words)]


def test_words_are_runs_without_white_space() -> None:
    tokens = texts("Do", "n", "'t", " use", " com", "mas", ".", "\n", "Go", " ", "now")
    assert words_of(tokens, [True] * 11) == [(0, 1, 2), (3,), (4, 5, 6), (8,), (10,)]
    assert words_of(tokens, [True] * 5 + [False] + [True] * 5) == [(0, 1, 2), (3,), (4,), (6,), (8,), (10,)]


def test_pieces_of_a_character_stay_together() -> None:
    tokens = [TokenText(0, " a"), TokenText(1, "é", 1, 2, "é"), TokenText(2, "", 2, 2, "é"), TokenText(3, "b")]
    assert words_of(tokens, [True] * 4) == [(0, 1, 2, 3)]


def test_markers_and_the_last_word_are_not_masked(given: CaseInput) -> None:
    words = ["".join(given.texts[i].text for i in word) for word in maskable_words(given, "input")]
    assert words == ["say", "no", "more", given.texts[13].text, "so"]  # "it" comes last, where the question is
    assert len(maskable_words(given, "prompt")) == 4


@pytest.mark.parametrize("replacement", ["pad", "neutral", "mask", "deletion"])
def test_masking_is_what_it_says(model: LoadedModel, given: CaseInput, replacement: Any) -> None:
    model = replace(model, tokenizer=deepcopy(model.tokenizer))
    model.tokenizer.mask_token = "<unk>"
    fillers = {"neutral": neutral_id(model.tokenizer), "mask": 5}  # id 5 is <unk>
    masks = [frozenset[int](), frozenset({3, 4}), frozenset({5, 6, 8})]
    masker = Masker(model, given, replacement)
    effects = [*masker.effects(masks[:1]), *masker.effects(masks[1:])]  # the second batch has a common beginning
    for mask, effect in zip(masks, effects, strict=True):
        ids, seen = list(given.ids), [1] * len(given.ids)
        for i in mask:
            ids[i] = fillers.get(replacement, ids[i])
            seen[i] = 0 if replacement == "pad" else 1
        if replacement == "deletion":
            ids = [token for i, token in enumerate(ids) if i not in mask]
            seen = [1] * len(ids)
        positions = torch.arange(len(ids))[None]
        with torch.no_grad():
            out = model.model(torch.tensor([ids]), attention_mask=torch.tensor([seen]), position_ids=positions)
        logits = out.logits[0, -1]
        assert effect.target == pytest.approx(float(logits[given.target]), abs=1e-4)
        assert effect.contrast == pytest.approx(float(logits[given.contrast]), abs=1e-4)
        assert effect.top == int(logits.argmax())
    assert effects[0].top == given.target
    assert len({effect.target for effect in effects}) == 3
    with pytest.raises(InputError, match="the last token cannot be masked"):
        masker.effects([frozenset({len(given.ids) - 1})])


class Planted:
    """A masker under which the prediction changes once a token is masked, and the contrast leads once two are."""

    def __init__(self, first: int, second: int):
        self._first, self._second = first, second

    def effects(self, masks: Any) -> list[Effect]:
        return [
            Effect(8 if self._first in m else 7, 1.0, 2.0 if {self._first, self._second} <= m else 0.0) for m in masks
        ]


def planted(monkeypatch: pytest.MonkeyPatch, first: int, second: int) -> CaseInput:
    """A case of six one-token words; the last is where the question is asked."""
    monkeypatch.setattr(module, "Masker", lambda *_: Planted(first, second))
    tokens = texts("a", " b", " c", " d", " e", " f")
    case = Case(id="a", prompt="a b c d e f", target=CaseToken(id=7), contrast=CaseToken(id=9))
    return CaseInput(case, (0, 1, 2, 3, 4, 5), 7, 9, tuple(tokens), (Segment("query", 0, 6),))


def test_words_are_masked_until_the_prediction_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    case = planted(monkeypatch, 3, 1)
    scores = {"good": [0, 4, 0, 5, 0, 9], "signed": [1, -9, 2, -8, 3, 0], "late": [5, 4, 3, 2, 1, 0]}
    made = validate(SimpleNamespace(), case, scores, Rules(most=4, draws=2), None)  # type: ignore[arg-type]
    assert (made.words, made.most) == (5, 4)
    found = {(f.ranking, f.draw): (f.changed, f.overtaken, f.words) for f in made.flips}
    assert found["good", 0] == (1, 2, ("d",))
    assert found["signed", 0] == (4, None, ("e", "c", "a", "d"))  # what speaks against the target comes last
    assert found["late", 0] == (4, 4, ("a", "b", "c", "d"))
    assert {key for key in found if key[0] == "random"} == {("random", 0), ("random", 1)}
    again = validate(SimpleNamespace(), case, scores, Rules(most=4, draws=2), None)  # type: ignore[arg-type]
    assert again == made
    assert found["random", 0] != found["random", 1]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 12, 13])
def test_batches_are_all_numbers_in_order(most: int) -> None:
    made = list(batches(most))
    assert [count for counts in made for count in counts] == list(range(1, most + 1))
    assert len(made[0]) == 1


def test_the_target_must_be_the_models_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    case = planted(monkeypatch, 3, 1)
    other = CaseInput(case.case, case.ids, 6, 9, case.texts, case.segments)
    with pytest.raises(InputError, match="the model does not choose the target here"):
        validate(SimpleNamespace(), other, {"a": [0.0] * 6}, Rules(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"most": 0}, "at least one word"),
        ({"draws": -1}, "draws must not be negative"),
        ({"replacements": ()}, "needs a replacement"),
        ({"replacements": ("zero",)}, "unknown replacement 'zero'. choices: pad, neutral, mask, deletion"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"where": "answer"}, "unknown part 'answer'"),
    ],
)
def test_rules_are_checked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Rules(**wrong)


def test_the_answer_after_the_change_is_judged(model: LoadedModel, given: CaseInput) -> None:
    scores = {"up": list(map(float, range(len(given.ids)))), "down": list(map(float, range(len(given.ids), 0, -1)))}
    rules = Rules(most=5, draws=0)
    plain = validate(model, given, scores, rules, None)
    assert all(flip.passes is None for flip in plain.flips)
    changed = [flip for flip in plain.flips if flip.changed]
    assert changed
    for parameter, verdict_ in (("zzz", False), ("so", True)):
        wanted = (instruction("keywords:existence", {"keywords": [parameter]}),)
        judge = Judge(wanted, (False,), min_words=1, prompt="")
        repair = Repair(model, judge, max_new_tokens=40)
        ended = [e.ended for e in endings(model, given, plain, scores, 40)]
        made = validate(model, given, scores, rules, repair)
        passes = [flip.passes for flip in made.flips if flip.changed]
        assert passes == [verdict_ and end for end in ended]
        assert [flip.passed for flip in made.flips] == [flip.changed if flip.passes else None for flip in made.flips]
        same = {"passes": None, "passed": None}
        assert [flip.model_copy(update=same) for flip in made.flips] == list(plain.flips)


def endings(model: LoadedModel, given: CaseInput, made: Validation, scores: Any, limit: int) -> list[Any]:
    """Continuations of the masked inputs, one after the other."""
    from lrp_hooks.cases.answers.generate import generate
    from lrp_hooks.cases.validation.masking import mask_of
    from lrp_hooks.cases.validation.validate import ranked

    out = []
    for flip in made.flips:
        if flip.changed:
            mask = mask_of(ranked(maskable_words(given, "input"), scores[flip.ranking]), flip.changed)
            ids = Masker(model, given, "neutral").ids(mask)
            out.append(next(iter(generate(model.model, model.tokenizer, [ids], max_new_tokens=limit - 5)))[1])
    return out


def test_shares_of_segments() -> None:
    made = breakdown([Segment("a", 0, 1), Segment("b", 1, 3), Segment("a", 3, 4)], [1.0, -2.0, 0.5, 0.5])
    assert [(s.name, s.tokens, s.absolute, s.signed) for s in made] == [("a", 2, 0.375, 0.375), ("b", 2, 0.625, -0.375)]
    assert [s.absolute for s in breakdown([Segment("a", 0, 1)], [0.0])] == [0.0]


def test_intervals_hold_the_mean_and_narrow_with_more_cases() -> None:
    few, many = estimate([0.0, 1.0] * 5), estimate([0.0, 1.0] * 500)
    assert few is not None
    assert many is not None
    assert (few.mean, many.mean) == (0.5, 0.5)
    assert few.low < 0.3 < 0.7 < few.high
    # the standard error of a share of a half is 0.5 / sqrt(n)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 1000**0.5, rel=0.1)
    assert estimate([]) is None
    assert estimate([1.0, 1.0]) == estimate([1.0, 1.0], seed=3)


def records(*changed: tuple[int | None, int | None, int | None]) -> list[Validated]:
    """Per case: the words of two rankings and of one random draw; a second draw never changes anything."""
    made = []
    for number, (first, second, drawn) in enumerate(changed):
        flips = (
            Flip(ranking="one", replacement="neutral", changed=first, overtaken=first, passes=first == 1),
            Flip(ranking="two", replacement="neutral", changed=second, overtaken=None),
            Flip(ranking="random", replacement="neutral", changed=drawn),
            Flip(ranking="random", replacement="neutral", draw=1),
        )
        made.append(Validated(case=f"c{number}", model="m", validation=Validation(words=20, most=10, flips=flips)))
    return [*made, Validated(case="bad", model="m", error="no")]


def test_rankings_over_cases() -> None:
    rows = {row.ranking: row for row in ranking_rows(records((1, 3, 4), (2, 5, None), (1, None, 2), (1, 4, 6)))}
    one, two, drawn = rows["one"], rows["two"], rows["random"]
    assert one.words.mean == pytest.approx(1.25)
    assert two.words.mean == pytest.approx((3 + 5 + 10 + 4) / 4)
    assert drawn.words.mean == pytest.approx((7 + 10 + 6 + 8) / 4)  # the mean of two draws per case
    assert (one.changed.mean, two.changed.mean, drawn.changed.mean) == (1.0, 0.75, 0.375)
    assert (one.middle, two.overtaken.mean, two.overtaken_words.mean) == (1.0, 0.0, 10.0)
    assert one.passes is not None
    assert (one.passes.mean, one.passes.count, two.passes) == (0.75, 4, None)
    assert (one.passed_words, one.passed) == (None, None)  # masking did not go on
    assert one.difference is None
    assert two.difference is not None
    assert two.difference.mean == pytest.approx(4.25)


def test_the_verdict_says_who_needs_fewest() -> None:
    (said,) = verdict(ranking_rows(records(*[(1, 3, 4)] * 5)))
    assert "one needs fewer words than two, random" in said
    (said,) = verdict(ranking_rows(records(*[(5, 2, 2)] * 3)))
    assert "more words than two" in said
    (said,) = verdict(ranking_rows(records((1, 3, 9), (3, 1, 9))))
    assert "no clear difference to two" in said


def test_cases_without_a_pair_or_for_other_tokens_are_refused(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="target and contrast are not known"):
        case_input(model, Case(id="a", prompt="so"))
    with pytest.raises(TokenError, match="'so' is 2 tokens"):
        case_input(model, Case(id="a", prompt="so", target=CaseToken(text="so"), contrast=CaseToken(text="s")))
    same = Case(id="a", prompt="so", target=CaseToken(text="s"), contrast=CaseToken(id=89))
    with pytest.raises(InputError, match="target and contrast are the same token 89"):
        case_input(model, same)
    bare = LoadedModel(model.model, None, "made", "bare")
    with pytest.raises(InputError, match="no tokenizer"):
        case_input(bare, same)


def test_fingerprints_tell_tokenizers_apart(model: LoadedModel) -> None:
    from tiny import LETTERS, tokenizer

    assert fingerprint(model.tokenizer) == fingerprint(tokenizer())
    assert fingerprint(model.tokenizer) != fingerprint(tokenizer(LETTERS[::-1]))
