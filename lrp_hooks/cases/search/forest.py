"""Branches of many trees written at the same time.

Each step feeds the next token of every branch, all in one row: the linear maps see one large batch, whatever text a
token belongs to, and attention is done tree by tree, so that no branch sees another and nothing is padded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.cases.search.branch import Branch, Choose, greedy
from lrp_hooks.cases.search.tree import Tree
from lrp_hooks.detection.detect import is_attention
from lrp_hooks.errors import InputError
from lrp_hooks.patching import redirect_attention

AGREEMENT = 0.1
"""How far the logits of a branch may be from the plain forward's, in standard deviations of the logits."""


def never(_: Branch) -> bool:
    """Gives no branch up."""
    return False


@dataclass(eq=False)
class Growth:
    """Branches of one tree that are to be continued until each has ended, reached its limit, or was stopped.

    Attributes:
        choose: the next tokens of branches from their logits.
        stop: asked after every ``every`` tokens of a branch; True gives it up.
        error: what ``stop`` raised; the branches are given up then.
    """

    tree: Tree
    branches: Sequence[Branch]
    choose: Choose = greedy
    stop: Callable[[Branch], bool] = never
    every: int = 8
    error: Exception | None = None
    waiting: deque[Branch] = field(default_factory=deque)

    @property
    def finished(self) -> bool:
        return all(branch.finished for branch in self.branches)

    def asks(self, branch: Branch) -> None:
        """Give the branch up where ``stop`` says so."""
        try:
            branch.stopped = self.stop(branch)
        except Exception as error:  # a verifier that fails: the growth's business, not that of the others
            self.error = error
            for each in self.branches:
                each.stopped = True


class Forest:
    """Grows branches of any number of trees. While it is open the model's attention is redirected.

    Args:
        ends: tokens that end a text.
        width: branches written at the same time, of all trees together.
    """

    def __init__(self, model: Any, ends: Iterable[int], width: int = 64):
        self._model, self._ends, self._width = model, frozenset(ends), width
        self._growths: list[Growth] = []
        self._step: list[Tree] = []
        sites = [module for module in model.modules() if is_attention(module)]
        self._handles = [redirect_attention(module, self._attend) for module in sites]

    def close(self) -> None:
        """The model is as it was."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Forest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plant(self, ids: Sequence[int]) -> Tree:
        """A text, after one forward over it.

        Raises:
            InputError: an empty text, or a model that mixes tokens otherwise than by attention to all of them.
            ContextLengthError: the text does not fit.
        """
        tree = Tree(self._model, ids)
        self._check(tree)
        return tree

    def add(self, growth: Growth) -> None:
        """Branches to be continued with the next steps."""
        known = len(growth.tree.ids)
        for branch in growth.branches:
            if not 1 <= branch.start <= known:
                raise InputError(f"a branch after {branch.start} tokens of {known}")
            if len(branch.ids) > 1:
                raise InputError(f"a branch may be given its first token, not {len(branch.ids)}")
        growth.waiting = deque(branch for branch in growth.branches if not self._begin(growth, branch))
        self._growths.append(growth)

    def grow(self, *growths: Growth) -> None:
        """Continue until all are finished.

        Raises:
            Exception: what a ``stop`` has raised.
        """
        for growth in growths:
            self.add(growth)
        while not all(growth.finished for growth in growths):
            self.step()
        for growth in growths:
            if growth.error is not None:
                raise growth.error

    def step(self) -> None:
        """One more token for as many branches as there are places."""
        began = time.perf_counter()
        self._growths = [growth for growth in self._growths if not growth.finished]
        self._admit()
        trees = list(dict.fromkeys(growth.tree for growth in self._growths if growth.tree.active))
        rows = {branch: i for i, branch in enumerate(b for tree in trees for b in tree.active)}
        if not rows:
            return
        logits = self._logits(trees)
        for growth in self._growths:
            self._take(growth, [b for b in growth.branches if b in rows and not b.finished], rows, logits)
        spent = time.perf_counter() - began
        for tree in trees:
            tree.tokens += len(tree.active)
            tree.seconds += spent * len(tree.active) / len(rows)
            tree.release()

    def _begin(self, growth: Growth, branch: Branch) -> bool:
        """The first token of a branch without one; returns whether that was all."""
        if not branch.ids:
            first = growth.choose(growth.tree.logits[branch.start - 1 : branch.start].float(), [branch])
            branch.ids.append(int(first[0]))
        if branch.ids[-1] in self._ends:
            branch.ids.pop()
            branch.ended = True
        elif not branch.finished:
            growth.asks(branch)
        return branch.finished

    def _admit(self) -> None:
        """Fill free places, the growths that have waited longest first."""
        free = self._width - sum(len(tree.active) for tree in {growth.tree for growth in self._growths})
        for growth in self._growths:
            while free > 0 and growth.waiting:
                branch = growth.waiting.popleft()
                if not branch.finished:
                    growth.tree.admit(branch)
                    free -= 1

    def _take(self, growth: Growth, branches: list[Branch], rows: dict[Branch, int], logits: Tensor) -> None:
        if not branches:
            return
        chosen = growth.choose(logits[[rows[b] for b in branches]].float(), branches).tolist()
        for branch, token in zip(branches, chosen, strict=True):
            if token in self._ends:
                branch.ended = True
                continue
            branch.ids.append(token)
            if len(branch.ids) % growth.every == 0 and not branch.finished:
                growth.asks(branch)

    @torch.no_grad()
    def _logits(self, trees: list[Tree]) -> Tensor:
        """Feed the last token of each branch: logits [branches, V]."""
        branches = [branch for tree in trees for branch in tree.active]
        for tree in trees:
            tree.extend()
        device = trees[0].logits.device
        ids = torch.tensor([[b.ids[-1] for b in branches]], device=device)
        positions = torch.tensor([[b.start + len(b.ids) - 1 for b in branches]], device=device)
        # the trees hold the real masks; a mask in the model's own form keeps it from making one
        mask = torch.zeros(1, 1, len(branches), len(branches), dtype=trees[0].logits.dtype, device=device)
        self._step = trees
        try:
            logits: Tensor = self._model(
                input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
            ).logits
        finally:
            self._step = []
        return logits[0]

    def _attend(self, base: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> Any:
        """The attention of one layer, tree by tree; the model's own outside a step. q [1, H, B, d] -> [1, B, H, d]."""
        if not self._step:
            return base(module, q, k, v, mask, **kwargs)
        longest = max(b.start + len(b.ids) for tree in self._step for b in tree.active)
        _refuse(module, longest, kwargs)
        parts, at = [], 0
        for tree in self._step:
            rows = slice(at, at + len(tree.active))
            at = rows.stop
            own = q[0, :, rows], k[0, :, rows], v[0, :, rows]
            parts.append(tree.attend(module.layer_idx, *own, kwargs.get("scaling")))
        return torch.cat(parts, 1).transpose(0, 1)[None].contiguous(), None

    def _check(self, tree: Tree) -> None:
        """The last token twice again, as branches: the logits of both must be the plain ones."""
        last = len(tree.ids) - 1
        again = [Branch(last, 2, [tree.ids[-1]]) for _ in range(2)]
        try:
            for branch in again:
                tree.admit(branch)
            logits = self._logits([tree]).float()
        except Exception as error:
            raise InputError(f"branches cannot be written with {type(self._model).__name__}: {error}") from error
        for branch in again:
            branch.stopped = True
        tree.release()
        plain = tree.logits[-1].float()
        if float((logits - plain).abs().max()) > AGREEMENT * float(plain.std()):
            raise InputError(
                f"branches cannot be written with {type(self._model).__name__}: it reads tokens in other ways than by "
                "attention to all of them. do: a model with full attention"
            )


def _refuse(module: Any, longest: int, kwargs: dict[str, Any]) -> None:
    """Raise where attention is more than a softmax over all keys."""
    window = kwargs.get("sliding_window")
    if window is not None and longest > window:
        raise InputError(f"a window of {window} tokens is shorter than the text")
    extra = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if extra:
        raise InputError(f"{type(module).__name__} attends with {extra[0]}")
