"""Batched and branched generation say what one plain forward after the other says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from families import build

from lrp_hooks.cases.answers.generate import encode_prompt, generate
from lrp_hooks.cases.search.branch import Branch, sampler
from lrp_hooks.cases.search.forest import Forest, Growth
from lrp_hooks.errors import ContextLengthError, InputError

PROMPTS = [[5, 9, 2], [7], [3, 1, 4, 1, 5, 9, 2, 6], [8, 8]]


class Tokenizer:
    """Ids as text, one end token."""

    eos_token_id = 0
    chat_template = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def model(request: pytest.FixtureRequest) -> Any:
    made = build(request.param)
    made.generation_config.eos_token_id = None
    return made


@torch.no_grad()
def plainly(model: Any, ids: Sequence[int], count: int, ends: int = -1) -> tuple[list[int], bool]:
    """Greedy without a cache."""
    said: list[int] = []
    while len(said) < count:
        token = int(model(torch.tensor([[*ids, *said]])).logits[0, -1].argmax())
        if token == ends:
            return said, True
        said.append(token)
    return said, False


def an_end(model: Any) -> int:
    """A token that some of the prompts come to after a while, so that rows end at different times."""
    said = [plainly(model, p, 8)[0] for p in PROMPTS]
    return next(t for t in said[0][2:] if not all(t in s for s in said))


def test_a_row_that_is_given_up_has_not_ended_and_leaves_the_others_alone(model: Any) -> None:
    asked: list[int] = []
    first = plainly(model, PROMPTS[0], 20)[0]

    def stop(said: Sequence[int]) -> bool:
        asked.append(len(said))
        return list(said) == first[:9]

    made = dict(generate(model, Tokenizer(), PROMPTS[:2], max_new_tokens=20, stop=stop))
    assert (made[0].ids, made[0].ended) == (tuple(first[:9]), False)
    assert list(made[1].ids) == plainly(model, PROMPTS[1], 20, 0)[0]
    assert asked == [1, 1, 9, 9, 17]


def test_batches_say_what_rows_say_alone(model: Any) -> None:
    tokenizer = Tokenizer()
    tokenizer.eos_token_id = an_end(model)
    found = dict(generate(model, tokenizer, PROMPTS, max_new_tokens=8))
    assert sorted(found) == [0, 1, 2, 3]
    assert {c.ended for c in found.values()} == {True, False}
    for row, completion in found.items():
        assert (list(completion.ids), completion.ended) == plainly(model, PROMPTS[row], 8, tokenizer.eos_token_id)
        assert completion.prompt_ids == tuple(PROMPTS[row])
        assert completion.text == " ".join(map(str, completion.ids))


def test_a_batch_of_none_says_nothing(model: Any) -> None:
    assert list(generate(model, Tokenizer(), [], max_new_tokens=8)) == []


def test_prompts_must_fit(model: Any) -> None:
    maximum = model.config.max_position_embeddings
    with pytest.raises(ContextLengthError, match=f"more than the model's {maximum}"):
        next(generate(model, Tokenizer(), [[1] * maximum], max_new_tokens=1))
    with pytest.raises(InputError, match="at least 1"):
        next(generate(model, Tokenizer(), [[1]], max_new_tokens=0))


def test_prompts_are_checked() -> None:
    assert encode_prompt(Tokenizer(), "1 2") == [1, 2]
    with pytest.raises(InputError, match="the prompt is empty"):
        encode_prompt(Tokenizer(), "")
    with pytest.raises(InputError, match="no chat template"):
        encode_prompt(Tokenizer(), [{"role": "user", "content": "1"}])


TRUNK = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


OTHER = [7, 7, 2, 9]
BRANCHES = [(10, 6, []), (10, 9, [7]), (4, 9, [7]), (4, 2, [8]), (1, 12, []), (7, 5, [6]), (9, 20, [1])]
"""Start, limit, and the first token where it is given."""


@pytest.mark.parametrize("width", [1, 3, 32])
def test_branches_of_two_texts_say_what_plain_forwards_say(model: Any, width: int) -> None:
    end = an_end(model)
    with Forest(model, {end}, width) as forest:
        trees = [forest.plant(TRUNK), forest.plant(OTHER)]
        for _ in range(2):  # the trunks are as they were after the first time
            wanted = [(tree, b) for tree in trees for b in BRANCHES if b[0] <= len(tree.ids)]
            branches = [Branch(start, limit, list(first)) for _, (start, limit, first) in wanted]
            own = [[b for b, (tree, _) in zip(branches, wanted, strict=True) if tree is each] for each in trees]
            forest.grow(*(Growth(tree, many) for tree, many in zip(trees, own, strict=True)))
            for branch, (tree, (start, limit, first)) in zip(branches, wanted, strict=True):
                said, ended = plainly(model, [*tree.ids[:start], *first], limit - len(first), end)
                assert (branch.ids, branch.ended) == ([*first, *said], ended)
    cached = model(torch.tensor([TRUNK])).logits[0]
    assert torch.allclose(trees[0].logits, cached)


def test_a_closed_forest_leaves_the_model_as_it_was(model: Any) -> None:
    def configs() -> list[int]:
        return [id(module.config) for module in model.modules() if "config" in module.__dict__]

    before = configs()
    with Forest(model, ()):
        assert configs() != before
    assert configs() == before


def grown(model: Any, branches: list[Branch], **options: Any) -> Any:
    """The tree of one trunk after growing."""
    ends = options.pop("ends", ())
    with Forest(model, ends) as forest:
        tree = forest.plant(options.pop("trunk", TRUNK))
        forest.grow(Growth(tree, branches, **options))
        return tree


def test_an_end_that_is_given_ends_a_branch(model: Any) -> None:
    branch = Branch(3, 5, [0])
    tree = grown(model, [branch], ends={0})
    assert (branch.ids, branch.ended, tree.tokens) == ([], True, 0)


def test_branches_are_given_up_when_asked(model: Any) -> None:
    branches = [Branch(3, 20, [7]), Branch(4, 20, [7])]
    grown(model, branches, stop=lambda branch: branch is branches[0] and len(branch.ids) >= 5, every=3)
    assert branches[0].stopped
    assert [len(b.ids) for b in branches] == [6, 20]


def test_a_question_that_fails_stops_its_own_branches_only(model: Any) -> None:
    def fail(_: Branch) -> bool:
        raise RecursionError("too deep")

    bad, good = [Branch(3, 20, [7])], [Branch(4, 20, [7])]
    with Forest(model, ()) as forest:
        tree = forest.plant(TRUNK)
        with pytest.raises(RecursionError, match="too deep"):
            forest.grow(Growth(tree, bad, stop=fail), Growth(tree, good))
    assert len(good[0].ids) == 20


def test_loops_are_noticed() -> None:
    words = list(range(40))
    assert not Branch(1, 200, words).loops
    assert not Branch(1, 200, [*words, *[1, 2, 3] * 8]).loops
    assert Branch(1, 200, [*words, *[1, 2, 3] * 12]).loops
    assert not Branch(1, 200, [*words, *words, 99]).loops
    assert Branch(1, 200, [9, *words, *words, *words]).loops


def test_samples_follow_the_odds_and_the_seed(model: Any) -> None:
    branches = [Branch(5, 1, number=i) for i in range(2000)]
    tree = grown(model, branches, choose=sampler(1, 0.5))
    odds = torch.softmax(tree.logits[4].double() / 0.5, -1)
    drawn = torch.bincount(torch.tensor([b.ids[0] for b in branches]), minlength=len(odds)) / len(branches)
    assert (drawn - odds).abs().max() < 4 * float((odds * (1 - odds) / len(branches)).sqrt().max())
    again = [Branch(5, 6, number=i) for i in range(4)], [Branch(5, 6, number=i) for i in range(4)]
    with Forest(model, (), 3) as forest:
        tree = forest.plant(TRUNK)
        forest.grow(Growth(tree, again[0], sampler(3, 50.0)))
        other = Growth(forest.plant(OTHER), [Branch(2, 9), Branch(3, 9)])
        forest.grow(other, Growth(tree, again[1], sampler(3, 50.0)))
    assert [b.ids for b in again[0]] == [b.ids for b in again[1]]
    assert len({tuple(b.ids) for b in again[0]}) > 1


@pytest.mark.parametrize("start", [0, 11])
def test_branches_leave_the_trunk_where_it_is(model: Any, start: int) -> None:
    with pytest.raises(InputError, match=f"after {start} tokens of 10"):
        grown(model, [Branch(start, 3, [1])])


def test_a_branch_is_given_one_token_at_most(model: Any) -> None:
    with pytest.raises(InputError, match="its first token, not 2"):
        grown(model, [Branch(2, 3, [1, 2])])


@pytest.mark.parametrize(("family", "words"), [("mistral", "a window of"), ("gemma2", "softcap|a window of")])
def test_models_with_other_attention_are_refused(family: str, words: str) -> None:
    made = build(family)
    with pytest.raises(InputError, match=f"branches cannot be written with .*: .*({words})"):
        grown(made, [], trunk=[i % 20 for i in range(3 * made.config.sliding_window)])


def test_models_that_mix_tokens_otherwise_are_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = type(model).forward

    @functools.wraps(plain)
    def leaky(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = plain(self, *args, **kwargs)
        out.logits = out.logits.cumsum(1)
        return out

    monkeypatch.setattr(type(model), "forward", leaky)
    with pytest.raises(InputError, match="it reads tokens in other ways"):
        grown(model, [])


def test_an_empty_trunk_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        grown(model, [], trunk=[])
