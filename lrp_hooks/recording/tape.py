"""The switch between hooks and records: which forward runs now, and which the latest backward pass went through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lrp_hooks.patching import NotCopyable
from lrp_hooks.recording.detour import Detour
from lrp_hooks.recording.records import ForwardRecord


class Tape(NotCopyable):
    """The switch between rules and records: which forward is running now, and which the last backward went through.

    Attributes:
        record: of the forward that is running.
        last: of the forward that the latest backward pass went through.
        forwards: how many forwards have been recorded.
        mixed: whether the latest backward pass went through several forwards.
        detour: set while attention calls are taken elsewhere.
        rows: sequences in the batch while it is.
        ranks: the process group of a tensor parallel model, None for whole ones.
        holds_bias: whether an attention call was given a bias made from hidden states, which its rule holds constant.
        fused: dtypes of the attention modules whose values were the kernels', not their own functions', by path.
    """

    def __init__(self) -> None:
        self.record: ForwardRecord | None = None
        self.last: ForwardRecord | None = None
        self.forwards = 0
        self.mixed = False
        self.detour: Detour | None = None
        self.rows: int | None = None
        self.ranks: Any = None
        self.scope: Any = None
        self.holds_bias = False
        self.fused: dict[str, torch.dtype] = {}

    @contextmanager
    def own_rule(self) -> Iterator[None]:
        """What runs inside has a rule of its own: nothing is claimed operation by operation."""
        scope = self.scope
        if scope is not None:
            scope.suspended += 1
        try:
            yield
        finally:
            if scope is not None:
                scope.suspended -= 1

    def started(self, record: ForwardRecord) -> None:
        """A backward pass has reached ``record``."""
        self.mixed = self.last is not None and self.last is not record and self.last.task == record.task
        self.last = record

    @contextmanager
    def detoured(self, detour: Detour, rows: int) -> Iterator[None]:
        """Attention calls inside go to ``detour``; nothing is recorded and no gradient kept. ``rows``: the batch."""
        self.detour, self.rows = detour, rows
        try:
            with torch.no_grad(), self.recording(None):
                yield
        finally:
            self.detour = self.rows = None

    @contextmanager
    def recording(self, record: ForwardRecord | None) -> Iterator[None]:
        """Everything that runs inside reports to ``record``."""
        before, self.record = self.record, record
        try:
            yield
        finally:
            self.record = before
