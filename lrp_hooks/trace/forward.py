"""One instrumented forward: the blocks run once, the head only at positions that are asked about."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.errors import GradientError, NonFiniteError, RemovedError, TargetError
from lrp_hooks.patching import replace_forward
from lrp_hooks.tape import ForwardRecord
from lrp_hooks.targets import TopToken, top_tokens

if TYPE_CHECKING:
    from lrp_hooks.instrumentation import Instrumentation


class TracedForward:
    """One forward with its autograd graph, and logits from it on demand.

    Attributes:
        input_ids: [B, T] or None.
        attention_mask: [B, T] bool.
        prompt_length: tokens of the shared prompt, for traces of two continuations.
    """

    def __init__(self, lrp: Instrumentation, inputs: dict[str, Any]):
        self._lrp = lrp
        self._record = ForwardRecord(tape=lrp.tape)
        self._inputs = inputs
        self.prompt_length: int | None = None
        captured: list[Any] = []
        handle = lrp.skeleton.decoder.register_forward_hook(lambda _m, _a, out: captured.append(out))
        try:
            with torch.enable_grad(), lrp.tape.recording(self._record):
                lrp.model(**inputs, **self._keep(1))
        finally:
            handle.remove()
        self._hidden = captured[0]
        mask = self._record.attention_mask
        assert mask is not None
        self.attention_mask: Tensor = mask
        self.input_ids: Tensor | None = self._record.input_ids
        states = _last_hidden(self._hidden)
        if not states.requires_grad:
            raise GradientError("no gradient can flow through this forward. do: leave torch.inference_mode()")
        if not torch.isfinite(states[mask]).all():
            raise NonFiniteError("the hidden states contain NaN or infinity. do: try float32 or bfloat16")

    def _keep(self, positions: int | Tensor) -> dict[str, Any]:
        """The argument that limits the head to some positions, where the model has it."""
        known = inspect.signature(type(self._lrp.model).forward).parameters
        return {"logits_to_keep": positions} if "logits_to_keep" in known else {}

    def _check(self) -> None:
        if self._lrp.removed:
            raise RemovedError("the instrumentation of this trace was removed. do: instrument and trace again")

    def positions(self, position: int) -> Tensor:
        """Column per row, [B], of the real token at ``position`` (negative from the end).

        Raises:
            TargetError: when a row has no such token.
        """
        mask = self.attention_mask
        count = mask.sum(1)
        index = count + position if position < 0 else torch.full_like(count, position)
        if bool((index < 0).any()) or bool((index >= count).any()):
            raise TargetError(f"position {position} is outside the {int(count.min())} tokens of the prompt")
        first = mask.int().argmax(1)
        return first + index

    def logits(self, position: int = -1) -> Tensor:
        """Logits [B, V] at ``position`` of each row, as the model reports them, without graph."""
        with torch.no_grad():
            return self._logits(self.positions(position)[:, None])[:, 0]

    def _logits(self, columns: Tensor) -> Tensor:
        """Logits [B, P, V] at columns [B, P]: the model's own head on the captured hidden states."""
        self._check()
        wanted = torch.unique(columns)
        model, decoder = self._lrp.model, self._lrp.skeleton.decoder
        hidden = copy.copy(self._hidden)
        keep = self._keep(wanted)
        stub = replace_forward(decoder, lambda original, *args, **kwargs: hidden, outermost=True)
        try:
            with self._lrp.tape.recording(self._record):
                logits: Tensor = model(**self._inputs, **keep).logits
        finally:
            stub.remove()
        index = torch.searchsorted(wanted, columns) if keep else columns
        return logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[-1]))

    def top(
        self, k: int = 10, *, position: int = -1, tokenizer: Any = None, extra: Sequence[int | str] = (), row: int = 0
    ) -> list[TopToken]:
        """Top-k table at ``position`` of one row; ``extra`` tokens come with their true rank."""
        return top_tokens(self.logits(position)[row], k, tokenizer, extra)


def _last_hidden(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return states
