"""Targets: the scalar that is explained, a function of the logits at one position (or of several, teacher-forced).

Tokens are given by id (int), by text (str, one token exactly) or by rank (`Rank`, 1 = the model's first choice).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import TargetError, TokenError
from lrp_hooks.structure.outputs import Output


@dataclass(frozen=True)
class Rank:
    """The token at rank ``n`` of the logits, counted from 1."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise TokenError(f"rank {self.n} does not exist: ranks count from 1")


Token = int | str | Rank


def token_id(token: int | str, tokenizer: Any = None, vocabulary: int | None = None) -> int:
    """The id of one token.

    Raises:
        TokenError: text that is not exactly one token (names the pieces), an id outside the vocabulary, or text
            without a tokenizer.
    """
    if isinstance(token, bool) or not isinstance(token, (int, str)):
        raise TokenError(f"a token is an id, a text or a Rank, not {type(token).__name__}")
    if isinstance(token, int):
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            raise TokenError(f"token id {token} is outside the vocabulary of {vocabulary} entries")
        return token
    if tokenizer is None:
        raise TokenError(f"the token {token!r} is given as text but there is no tokenizer. do: tokenizer=..., or an id")
    special = tokenizer.get_vocab().get(token) if token in (tokenizer.all_special_tokens or ()) else None
    if special is not None:
        return int(special)
    ids: list[int] = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        pieces = [tokenizer.decode([i]) for i in ids]
        hint = _space_hint(token, tokenizer)
        raise TokenError(f"{token!r} is {len(ids)} tokens: {pieces}. do: give one token, by text or id{hint}")
    return int(ids[0])


def _space_hint(token: str, tokenizer: Any) -> str:
    """Most words are one token only with their leading space."""
    other = token[1:] if token.startswith(" ") else " " + token
    if other and len(tokenizer.encode(other, add_special_tokens=False)) == 1:
        return f" (did you mean {other!r}?)"
    return ""


class Target(ABC):
    """A scalar per batch row, computed from logits.

    Attributes:
        position: whose logits are explained: index among the row's real tokens, negative from the end. The logits at
            position p predict token p+1.
        tokenizer: turns token texts into ids.
    """

    position: int = -1
    tokenizer: Any = None

    @abstractmethod
    def value(self, logits: Tensor) -> Tensor:
        """f(logits) for logits [B, V] at the position, [B]."""

    @abstractmethod
    def describe(self, logits: Tensor) -> str:
        """What is explained, in words; logits [B, V] resolve ranks (first row)."""

    def on(self, output: Output) -> Target:
        """The same target for a model with this output: class names where it has them and no tokenizer was given.

        Raises:
            TargetError: a target on tokens or classes for a model that answers with a start and an end.
        """
        if output.kind == "span" and type(self) in NAMES.values():
            raise TargetError(
                f"{type(self).__name__} picks a token or class, but this model gives start and end logits. "
                "do: AnswerSpan(start, end), or a function of the logits [B, 2, T]"
            )
        if output.labels is None or self.tokenizer is not None or not is_dataclass(self):
            return self
        return replace(self, tokenizer=output.labels) if any(f.name == "tokenizer" for f in fields(self)) else self

    def fixed(self, logits: Tensor) -> Target:
        """The same target with ranks replaced by the tokens that hold them in logits [B, V] (first row)."""

        def fix(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return tuple(fix(part) for part in value)
            return int(self._ids(value, logits)[0]) if isinstance(value, Rank) else value

        if not is_dataclass(self):  # a user's own class, which resolves its tokens itself
            return self
        return replace(self, **{f.name: fix(getattr(self, f.name)) for f in fields(self)})

    def _ids(self, token: Token, logits: Tensor) -> Tensor:
        """Ids of a token per row, [B]."""
        if isinstance(token, Rank):
            if token.n > logits.shape[-1]:
                raise TokenError(f"rank {token.n} is outside the vocabulary of {logits.shape[-1]} entries")
            return logits.detach().topk(token.n, dim=-1).indices[:, -1]
        found = token_id(token, self.tokenizer, logits.shape[-1])
        return torch.full((logits.shape[0],), found, device=logits.device)

    def _name(self, token: Token, logits: Tensor) -> str:
        found = int(self._ids(token, logits)[0])
        text = token if isinstance(token, str) else self.tokenizer.decode([found]) if self.tokenizer else f"#{found}"
        return repr(text)


def _pick(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.gather(-1, ids[:, None]).squeeze(-1).float()


@dataclass(frozen=True)
class Logit(Target):
    """The logit of one token."""

    token: Token
    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        return _pick(logits, self._ids(self.token, logits))

    def describe(self, logits: Tensor) -> str:
        return f"logit({self._name(self.token, logits)})"


@dataclass(frozen=True)
class MaxLogit(Target):
    """The largest logit."""

    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        return _pick(logits, self._ids(Rank(1), logits))

    def fixed(self, logits: Tensor) -> Target:
        return Logit(int(self._ids(Rank(1), logits)[0]), self.position, self.tokenizer)

    def describe(self, logits: Tensor) -> str:
        return f"max logit ({self._name(Rank(1), logits)})"


@dataclass(frozen=True)
class LogitDiff(Target):
    """The contrast: logit(target) - logit(contrast). Several contrasts are averaged.

    ``LogitDiff(" Mary", " John", tokenizer=tok)``; ``LogitDiff(contrast=Rank(2))`` contrasts the model's first two
    choices. Source: contrastive attribution, arXiv 2604.17761.
    """

    target: Token = Rank(1)
    contrast: Token | Sequence[Token] = Rank(2)
    position: int = -1
    tokenizer: Any = None

    @property
    def contrasts(self) -> tuple[Token, ...]:
        many = self.contrast
        return (many,) if isinstance(many, (int, str, Rank)) else tuple(many)

    def value(self, logits: Tensor) -> Tensor:
        target = self._ids(self.target, logits)
        if not self.contrasts:
            raise TargetError("LogitDiff needs at least one contrast token")
        total = torch.zeros(logits.shape[0], device=logits.device)
        for contrast in self.contrasts:
            ids = self._ids(contrast, logits)
            if bool((ids == target).any()):
                raise TargetError(
                    f"target and contrast are the same token, {self._name(contrast, logits)}: their difference is 0. "
                    "do: give another contrast"
                )
            total = total + _pick(logits, ids)
        return _pick(logits, target) - total / len(self.contrasts)

    def describe(self, logits: Tensor) -> str:
        contrasts = ", ".join(self._name(c, logits) for c in self.contrasts)
        mean = "mean " if len(self.contrasts) > 1 else ""
        return f"logit({self._name(self.target, logits)}) - {mean}logit({contrasts})"


@dataclass(frozen=True)
class DemeanedLogit(Target):
    """logit(token) minus the mean over the vocabulary."""

    token: Token = Rank(1)
    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        return _pick(logits, self._ids(self.token, logits)) - logits.float().mean(-1)

    def describe(self, logits: Tensor) -> str:
        return f"logit({self._name(self.token, logits)}) - mean logit"


@dataclass(frozen=True)
class TopKMeanLogit(Target):
    """logit(token) minus the mean of the k largest logits (the first included)."""

    token: Token = Rank(1)
    k: int = 10
    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        if not 1 <= self.k <= logits.shape[-1]:
            raise TargetError(f"k = {self.k} is outside 1..{logits.shape[-1]}")
        top = logits.float().topk(self.k, dim=-1).values.mean(-1)
        return _pick(logits, self._ids(self.token, logits)) - top

    def describe(self, logits: Tensor) -> str:
        return f"logit({self._name(self.token, logits)}) - mean of the top {self.k} logits"


@dataclass(frozen=True)
class LogProb(Target):
    """log softmax(logits)[token]. Not linear: explained to first order (`Relevance.value` beside `target_value`)."""

    token: Token = Rank(1)
    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        return _pick(torch.log_softmax(logits.float(), -1), self._ids(self.token, logits))

    def describe(self, logits: Tensor) -> str:
        return f"log p({self._name(self.token, logits)})"


@dataclass(frozen=True)
class Custom(Target):
    """Any function of the logits [B, V] at one position that returns one scalar per row, [B]."""

    function: Callable[[Tensor], Tensor]
    name: str = "custom target"
    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        out = self.function(logits)
        if not isinstance(out, Tensor) or out.shape != logits.shape[:1]:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise TargetError(f"a target returns one scalar per row, shape ({logits.shape[0]},); got {got}")
        return out

    def describe(self, logits: Tensor) -> str:
        return self.name


@dataclass(frozen=True)
class AnswerSpan(Target):
    """start logit + end logit of an answer, for models that answer questions: the score that decoding maximises.

    ``AnswerSpan(7, 9, contrast=AnswerSpan(2, 3))`` asks why this answer and not that one.

    Attributes:
        start, end: columns of the answer's first and last token; None leaves that logit out.
        contrast: the answer whose score is subtracted.
    """

    start: int | None = None
    end: int | None = None
    contrast: AnswerSpan | None = None
    position: int = -1
    tokenizer: Any = None

    def value(self, logits: Tensor) -> Tensor:
        score = self._score(logits)
        if self.contrast is None:
            return score
        if (self.contrast.start, self.contrast.end) == (self.start, self.end):
            raise TargetError(f"target and contrast are the same answer, {self._words()}: their difference is 0")
        return score - self.contrast.value(logits)

    def _score(self, logits: Tensor) -> Tensor:
        if logits.dim() != 3 or logits.shape[1] != 2:
            raise TargetError("AnswerSpan needs start and end logits. do: Logit or LogitDiff for other models")
        chosen = [(part, column) for part, column in enumerate((self.start, self.end)) if column is not None]
        if not chosen:
            raise TargetError("AnswerSpan needs a start, an end, or both")
        for _, column in chosen:
            if not 0 <= column < logits.shape[2]:
                raise TargetError(f"column {column} is outside the {logits.shape[2]} tokens of the input")
        picked = torch.stack([logits[:, part, column].float() for part, column in chosen])
        return picked.sum(0)

    def _words(self) -> str:
        parts = (("start", self.start), ("end", self.end))
        return " + ".join(f"{name}({column})" for name, column in parts if column is not None)

    def describe(self, logits: Tensor) -> str:
        return self._words() if self.contrast is None else f"{self._words()} - ({self.contrast.describe(logits)})"


@dataclass(frozen=True)
class SequenceLogProb:
    """sum of log p(token | tokens before) over a span of the traced tokens, teacher-forced, [B].

    Attributes:
        start, end: the span [start, end) among the row's real tokens; negative from the end; ``end=None`` = to the end.
    """

    start: int
    end: int | None = None


@dataclass(frozen=True)
class SequenceLogProbDiff:
    """log p(target span) - log p(contrast span), for a trace made by `Instrumentation.trace_continuations`.

    Row 0 of the result explains the target's half (+), row 1 the contrast's (-); on the shared prompt they add up.
    """


AnyTarget = Target | SequenceLogProb | SequenceLogProbDiff | Callable[[Tensor], Tensor]


def as_target(target: object) -> Target:
    """A target at one position from what a user gives: a `Target`, or a function of the logits [B, V].

    Raises:
        TargetError: for anything else.
    """
    if isinstance(target, Target):
        return target
    if not callable(target):
        raise TargetError(f"{target!r} is not a target. do: LogitDiff(...), or a function of the logits [B, V]")
    return Custom(target, getattr(target, "__name__", "custom target"))


NAMES: dict[str, type[Target]] = {
    "logit": Logit,
    "max-logit": MaxLogit,
    "logit-diff": LogitDiff,
    "demeaned-logit": DemeanedLogit,
    "topk-mean-logit": TopKMeanLogit,
    "log-prob": LogProb,
}


def target_by_name(name: str) -> type[Target]:
    """A target class by its name on the command line.

    Raises:
        TargetError: for an unknown name; lists the choices.
    """
    if name not in NAMES:
        raise TargetError(f"unknown target {name!r}. choices: {', '.join(NAMES)}")
    return NAMES[name]


@dataclass(frozen=True)
class TopToken:
    """One row of the top-k table."""

    rank: int
    id: int
    text: str
    logit: float
    probability: float


def top_tokens(logits: Tensor, k: int = 10, tokenizer: Any = None, extra: Sequence[int | str] = ()) -> list[TopToken]:
    """The k largest of the logits [V], and ``extra`` tokens with their true rank: each once, best first."""
    if not 1 <= k <= logits.shape[-1]:
        raise TargetError(f"k = {k} is outside 1..{logits.shape[-1]}")
    values = logits.detach().float()
    probabilities = values.softmax(-1)
    named = [token_id(token, tokenizer, len(values)) for token in extra]
    ids = sorted({*values.topk(k).indices.tolist(), *named}, key=lambda i: (-float(values[i]), i))
    return [
        TopToken(
            rank=int((values > values[i]).sum()) + 1,
            id=i,
            text=tokenizer.decode([i]) if tokenizer is not None else f"#{i}",
            logit=float(values[i]),
            probability=float(probabilities[i]),
        )
        for i in ids
    ]
