"""How well scores find a known cause, and how well a graph finds a known path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from benchmarks.planted.prompt import Planted


@dataclass(frozen=True)
class Found:
    """One prompt, one method.

    Attributes:
        hit: the token with the highest score is a cause (ties count by their share).
        auc: chance that a cause token scores above another token (ties count half).
        rank: place of the best cause token, from 1 (ties count by their middle).
    """

    hit: float
    auc: float
    rank: float


def found(scores: Tensor, cause: Sequence[int], ignored: Sequence[int] = ()) -> Found:
    """Score one map [T] against the known cause positions; ``ignored`` positions take no part.

    Raises:
        ValueError: no cause, or nothing beside it.
    """
    others = [float(scores[i]) for i in range(len(scores)) if i not in cause and i not in ignored]
    causes = [float(scores[i]) for i in cause]
    if not causes or not others:
        raise ValueError("a cause and at least one other token are needed")
    best = max(causes)
    above, ties = sum(x > best for x in others), sum(x == best for x in others)
    as_good = sum(x == best for x in causes)
    wins = sum((c > o) + 0.5 * (c == o) for c in causes for o in others)
    return Found(
        hit=0.0 if above else as_good / (as_good + ties),
        auc=wins / (len(causes) * len(others)),
        rank=1 + above + ties / 2,
    )


def evidence(scores: Tensor, prompt: Planted, signed: bool) -> Tensor:
    """Scores [T] turned so that the cause should be highest.

    Signed maps: relevance for the wrong token, or against it where the cause pulls towards the right one. Maps without
    a sign stay as they are.
    """
    return -scores if signed and prompt.speaks_for_right else scores


def auc(scores: Sequence[float], wanted: Sequence[bool]) -> float | None:
    """Chance that a wanted item scores above another, ties half; None where one side is empty."""
    good = [s for s, w in zip(scores, wanted, strict=True) if w]
    bad = [s for s, w in zip(scores, wanted, strict=True) if not w]
    if not good or not bad:
        return None
    return sum((g > b) + 0.5 * (g == b) for g in good for b in bad) / (len(good) * len(bad))


def precision(scores: Sequence[float], wanted: Sequence[bool]) -> float | None:
    """Share of wanted items among the highest scores, as many as there are wanted ones; None where none is.

    Ties count by their share.
    """
    count = sum(wanted)
    if not count:
        return None
    bar = sorted(scores, reverse=True)[count - 1]
    above = [w for s, w in zip(scores, wanted, strict=True) if s > bar]
    level = [w for s, w in zip(scores, wanted, strict=True) if s == bar]
    return (sum(above) + (count - len(above)) * sum(level) / len(level)) / count


def visits(path: Sequence[int], hops: Sequence[int]) -> bool:
    """Whether a path of token positions goes through ``hops`` in their order."""
    steps = iter(path)
    return all(hop in steps for hop in hops)
