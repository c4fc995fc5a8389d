"""Planted failures: scores computed by hand, prompts that are what they say, causes that hold on the shipped models."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

from benchmarks.planted.evaluate import Row, leaderboard
from benchmarks.planted.habits import FIRST, LAST, WEAK_FIRST
from benchmarks.planted.knockout import KnownPath, existing, known_path, leads, path_holds
from benchmarks.planted.model import load_model, weight_file
from benchmarks.planted.paths import score_edges
from benchmarks.planted.prompt import Planted, laid_out
from benchmarks.planted.scores import auc, evidence, found, precision, visits
from benchmarks.planted.tasks import TASKS
from benchmarks.planted.train import NOTHING, lessons, train
from benchmarks.planted.verify import harvest, says
from benchmarks.planted_paths import paths

BY_NAME = {task.name: task for task in TASKS}
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def test_scores_by_hand() -> None:
    scores = torch.tensor([5.0, 1.0, 4.0, 3.0, 2.0])
    # others 5, 1, 2; cause 4 beats 1 and 2, cause 3 beats 1 and 2: 4 of 6 pairs; one token above the best cause
    one = found(scores, cause=(2, 3))
    assert (one.hit, one.auc, one.rank) == (0.0, pytest.approx(4 / 6), 2)
    # without the 5 both causes beat everything
    assert found(scores, cause=(2, 3), ignored=(0,)) == type(one)(hit=1.0, auc=1.0, rank=1)


def test_ties_count_by_their_share() -> None:
    flat = found(torch.zeros(5), cause=(1,))
    assert (flat.hit, flat.auc, flat.rank) == (pytest.approx(0.2), 0.5, 3)


def test_a_prompt_without_innocent_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one other"):
        found(torch.zeros(2), cause=(0,), ignored=(1,))


def test_a_cause_that_speaks_for_the_right_token_is_sought_there() -> None:
    prompt = Planted((0, 1), (0, 1), 2, 3, cause=(1,), speaks_for_right=True)
    scores = torch.tensor([1.0, -2.0])
    assert evidence(scores, prompt, signed=True).tolist() == [-1.0, 2.0]
    assert evidence(scores, prompt, signed=False) is scores


def test_area_under_the_curve_by_hand() -> None:
    assert auc([3.0, 1.0, 2.0, 2.0], [True, False, True, False]) == pytest.approx(3.5 / 4)
    assert auc([1.0, 2.0], [False, False]) is None


def test_precision_by_hand() -> None:
    # two wanted, so two are taken: 3, and one of the two 2s, of which one is wanted
    assert precision([3.0, 1.0, 2.0, 2.0], [True, False, True, False]) == pytest.approx(1.5 / 2)
    assert precision([3.0, 2.0, 1.0], [False, False, True]) == 0.0
    assert precision([1.0], [False]) is None


def test_a_path_visits_tokens_in_order() -> None:
    assert visits([1, 1, 4, 9], (1, 4, 9))
    assert not visits([4, 1, 1, 9], (1, 4, 9))


def test_the_leaderboard_gives_every_task_the_same_weight() -> None:
    def row(task: str, method: str, hit: float, prompts: int) -> Row:
        return Row(task, 16, method, hit, hit, 1.0, hit, prompts, prompts, prompts, 1.0)

    board = leaderboard([row("a", "x", 1.0, 1), row("b", "x", 0.0, 99), row("a", "y", 0.8, 1), row("b", "y", 0.6, 99)])
    assert [line["method"] for line in board] == ["y", "x"]
    assert board[1]["hit"] == 0.5
    assert board[1]["hit_a"] == 1.0


def test_chunks_keep_their_order_and_end_the_prompt() -> None:
    ids, starts = laid_out(Random(3), [(20, 21), (22,), (1, 23)], 12)
    assert len(ids) == 12
    assert [ids[at] for at in starts] == [20, 22, 1]
    assert ids[-2:] == [1, 23]
    with pytest.raises(ValueError, match="do not hold"):
        laid_out(Random(3), [(20, 21)], 2)


@every_task
def test_planted_prompts_differ_from_their_repair_in_one_cause_token(task: Any) -> None:
    random = Random(1)
    for _ in range(50):
        prompt = task.planted(random, 24)
        changed = [i for i, (a, b) in enumerate(zip(prompt.ids, prompt.repaired, strict=True)) if a != b]
        assert len(prompt.ids) == 24
        assert len(changed) == 1
        assert changed[0] in prompt.cause
        assert prompt.wrong != prompt.right
        assert not set(prompt.cause) & set(prompt.ignored)
        assert max(prompt.cause) < 23


@every_task
def test_lessons_ask_at_the_last_token(task: Any) -> None:
    ids, answers = lessons(task, Random(1), 32, 8)
    assert ids.shape == answers.shape == (8, 32)
    assert (answers[:, -1] != NOTHING).all()


@every_task
def test_the_planted_cause_holds_on_the_shipped_model(task: Any) -> None:
    """The model fails on most planted prompts, and replacing one token repairs most failures."""
    made = harvest(load_model(task), task, 16, tried=60, seed=1)
    assert made.wrong >= 20
    assert len(made.prompts) >= 15
    said = says(load_model(task), [p.repaired for p in made.prompts])
    assert said == [p.right for p in made.prompts]


def test_a_prompt_that_the_repair_does_not_repair_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    task = BY_NAME["trigger"]
    model = load_model(task)
    kept = harvest(model, task, 16, tried=20, seed=1).prompts
    head = model.lm_head.weight
    head[[kept[0].right, kept[0].right - 1]] = head[[kept[0].right - 1, kept[0].right]]  # two answers exchanged
    rights = {p.right for p in harvest(model, task, 16, tried=20, seed=1).prompts}
    assert kept[0].right not in rights


def test_the_weak_instruction_pulls_towards_the_right_token() -> None:
    """Exchanged for the opposite instruction, the wrong token leads by more on every verified prompt."""
    task = BY_NAME["instruction"]
    model = load_model(task)

    def lead(prompt: Planted, instruction: int) -> float:
        ids = torch.tensor([[instruction if i in prompt.cause else t for i, t in enumerate(prompt.ids)]])
        logits = model(ids).logits[0, -1]
        return float(logits[prompt.wrong] - logits[prompt.right])

    prompts = harvest(model, task, 16, tried=30, seed=1).prompts
    assert all(lead(p, LAST) > lead(p, WEAK_FIRST) > lead(p, FIRST) for p in prompts)


def test_weights_are_small() -> None:
    assert sum(weight_file(task).stat().st_size for task in TASKS) <= 2_000_000


def test_a_missing_model_says_how_to_make_it(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"planted\.train chain"):
        load_model(BY_NAME["chain"], tmp_path)


def test_training_is_deterministic_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    task = BY_NAME["trigger"]
    first, second = (train(task, seed=5, steps=4) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = train(task, seed=6, steps=4)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_edges_are_scored_against_what_cutting_says() -> None:
    """Three tokens, two blocks: source 0, relay 1, end 2. Cutting (0, 0, 1) or (1, 1, 2) turns a lead of 2 logits."""
    prompt = Planted((0, 1, 2), (0, 3, 2), 4, 5, cause=(1,), hops=(0, 1, 2))
    change = {(0, 0, 1): -3.0, (0, 0, 2): -1.0, (0, 1, 2): 0.0, (1, 0, 1): 0.0, (1, 0, 2): 0.0, (1, 1, 2): -2.5}
    known = KnownPath(prompt, 2.0, change)
    assert [edge for edge, causal in known.causal.items() if causal] == [(0, 0, 1), (1, 1, 2)]
    edges = [torch.eye(3), torch.eye(3)]
    edges[0][1, 0], edges[1][2, 1], edges[0][2, 0] = 2.0, -1.8, 1.0
    good = score_edges(edges, known)
    assert (good.edge_auc, good.precision, good.agreement) == (1.0, 1.0, pytest.approx(1.0))
    assert (good.follows, good.first, good.in_top) == (True, True, True)
    edges[0][1, 0], edges[0][2, 0] = 0.5, 9.0  # now the source goes to the end at once, and by the relay less
    poor = score_edges(edges, known)
    # of the eight pairs of a causal and another edge, 9 beats both causal ones
    assert poor.edge_auc == pytest.approx(6 / 8)
    assert poor.precision == 0.5
    assert poor.agreement < good.agreement
    assert (poor.follows, poor.first, poor.in_top) == (False, False, True)
    edges[0][1, 0] = 0.0
    assert not score_edges(edges, known).in_top


def test_windows_leave_edges_to_neighbours_only() -> None:
    model = load_model(BY_NAME["chain"])
    edges = existing(model.config, 5)
    near = [(s, s + 1) for s in range(4)]
    assert [edge[1:] for edge in edges if edge[0] == 0] == [edge[1:] for edge in edges if edge[0] == 2] == near
    assert len([edge for edge in edges if edge[0] == 1]) == 10
    with torch.no_grad():
        weights = load_eager(model)(torch.tensor([[0, 20, 21, 22, 1]]), output_attentions=True).attentions
    seen = {
        (b, s, t) for b, w in enumerate(weights) for t in range(5) for s in range(t) if w[0, :, t, s].abs().max() > 0
    }
    assert seen == set(edges)


def load_eager(model: Any) -> Any:
    """The model with attention that returns its weights."""
    model.set_attn_implementation("eager")
    return model


def test_the_chain_goes_over_its_relay() -> None:
    """Cutting either hop turns the choice; hardly any other edge matters. `Trace.ablate` cuts the same way."""
    from lrp_hooks import LogitDiff, instrument

    task = BY_NAME["chain"]
    model = load_model(task)
    prompts = harvest(model, task, 16, tried=30, seed=1).prompts[:8]
    holding = [prompt for prompt in prompts if path_holds(model, prompt)]
    assert 0 < len(holding) < len(prompts)  # a path is asked for, not assumed
    prompt = holding[0]
    known = known_path(model, prompt)
    assert known.change.keys() == set(existing(model.config, 16))
    causal = [edge for edge, turns in known.causal.items() if turns]
    assert 0 < len(causal) < 0.1 * len(known.change)
    with instrument(model) as lrp:
        trace, target = lrp.trace(input_ids=torch.tensor([prompt.ids])), LogitDiff(prompt.wrong, prompt.right)
        for edges in ([causal[0]], [(0, 3, 4), (1, 0, 5), (2, 14, 15)], [(b, *prompt.hops[:2]) for b in range(3)]):
            result = trace.ablate(target, edges=edges)
            assert leads(model, prompt, [edges]) == pytest.approx([result.after], abs=1e-4)
            assert known.lead == pytest.approx(result.before, abs=1e-4)
    assert known.change[causal[0]] == pytest.approx(leads(model, prompt, [[causal[0]]])[0] - known.lead, abs=1e-4)


def test_prompts_are_tried_until_enough_paths_hold() -> None:
    rows = paths({16: 2})
    assert rows[0].method == "attnlrp"
    assert all(row.prompts == 2 < row.tried and row.edges == 150 for row in rows)
    best, worst = rows[0], rows[-1]
    assert worst.method == "random"
    assert best.precision > worst.precision
