"""Batched and branched generation say what one plain forward after the other says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from families import build

from lrp_hooks.cases.generate import encode_prompt, generate
from lrp_hooks.cases.tree import Branch, Tree, sampler
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


@pytest.mark.parametrize("width", [1, 3, 32])
def test_branches_say_what_plain_forwards_say(model: Any, width: int) -> None:
    end = an_end(model)
    tree = Tree(model, TRUNK, {end})
    for _ in range(2):  # the trunk is as it was after the first time
        branches = [Branch(s, limit, list(first)) for s, limit, first in BRANCHES]
        tree.grow(branches, width=width)
        for branch, (start, limit, first) in zip(branches, BRANCHES, strict=True):
            said, ended = plainly(model, [*TRUNK[:start], *first], limit - len(first), end)
            assert (branch.ids, branch.ended) == ([*first, *said], ended)
    cached = model(torch.tensor([TRUNK])).logits[0]
    assert torch.allclose(tree.logits, cached)


BRANCHES = [(10, 6, []), (10, 9, [7]), (4, 9, [7]), (4, 2, [8]), (1, 12, []), (7, 5, [6]), (9, 20, [1])]


def test_an_end_that_is_given_ends_a_branch(model: Any) -> None:
    branch = Branch(3, 5, [0])
    tree = Tree(model, TRUNK, {0})
    tree.grow([branch])
    assert (branch.ids, branch.ended, tree.tokens) == ([], True, 0)


def test_branches_are_given_up_when_asked(model: Any) -> None:
    branches = [Branch(3, 20, [7]), Branch(4, 20, [7])]
    tree = Tree(model, TRUNK, ())
    tree.grow(branches, stop=lambda branch: branch is branches[0] and len(branch.ids) >= 5, every=3)
    assert branches[0].stopped
    assert [len(b.ids) for b in branches] == [6, 20]


def test_samples_follow_the_odds_and_the_seed(model: Any) -> None:
    tree = Tree(model, TRUNK, ())
    odds = torch.softmax(tree.logits[4].double() / 0.5, -1)
    branches = [Branch(5, 1) for _ in range(2000)]
    tree.grow(branches, sampler(1, 0.5))
    drawn = torch.bincount(torch.tensor([b.ids[0] for b in branches]), minlength=len(odds)) / len(branches)
    assert (drawn - odds).abs().max() < 4 * float((odds * (1 - odds) / len(branches)).sqrt().max())
    again = [Branch(5, 6) for _ in range(4)], [Branch(5, 6) for _ in range(4)]
    for many in again:
        tree.grow(many, sampler(3, 50.0))
    assert [b.ids for b in again[0]] == [b.ids for b in again[1]]
    assert len({tuple(b.ids) for b in again[0]}) > 1


@pytest.mark.parametrize("start", [0, 11])
def test_branches_leave_the_trunk_where_it_is(model: Any, start: int) -> None:
    with pytest.raises(InputError, match=f"after {start} tokens of 10"):
        Tree(model, TRUNK, ()).grow([Branch(start, 3, [1])])


def test_a_branch_is_given_one_token_at_most(model: Any) -> None:
    with pytest.raises(InputError, match="its first token, not 2"):
        Tree(model, TRUNK, ()).grow([Branch(2, 3, [1, 2])])


def test_models_with_a_window_are_refused() -> None:
    made = build("mistral")
    with pytest.raises(InputError, match="branches cannot be"):
        Tree(made, [i % 20 for i in range(3 * made.config.sliding_window)], ())


def test_an_empty_trunk_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        Tree(model, [], ())
