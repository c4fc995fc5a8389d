"""One instrumented forward: the blocks run once, the head only at positions that are asked about."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import GradientError, NonFiniteError, RemovedError, TargetError
from lrp_hooks.patching import replace_forward
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.targets import TopToken, top_tokens

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation


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
        captured: dict[nn.Module, Any] = {}
        parts = [stream.decoder for stream in lrp.skeleton.streams]
        handles = [part.register_forward_hook(lambda m, _a, out: captured.setdefault(m, out)) for part in parts]
        try:
            with torch.enable_grad(), lrp.tape.recording(self._record), lrp.checkpointing.saving(lrp.model, inputs):
                lrp.model(**inputs, **self._keep(1))
        finally:
            for handle in handles:
                handle.remove()
        self._captured = captured
        self._hidden = captured[lrp.skeleton.decoder]
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
        """The argument that limits the head to some positions, where the model has it and logits have positions."""
        if self._lrp.skeleton.output.kind != "tokens":
            return {}
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
        """Logits [B, V] at ``position`` of each row, as the model reports them, without graph; [B, 2, T] of answers."""
        with torch.no_grad():
            return self._logits_at(position)[0]

    def _logits_at(self, position: int) -> tuple[Tensor, Tensor | None]:
        """What a target at ``position`` is a function of, and its columns [B]; None where logits have no positions.

        Raises:
            TargetError: no such position; any but -1 where the model gives one set of logits per input.
        """
        if self._lrp.skeleton.output.kind == "tokens":
            columns = self.positions(position)
            return self._logits(columns[:, None])[:, 0], columns
        if position != -1:
            raise TargetError(
                f"{type(self._lrp.model).__name__} gives one set of logits per input, not per token: there is no "
                f"position {position}. do: leave the target's position out"
            )
        return self._head({}), None

    def _logits(self, columns: Tensor) -> Tensor:
        """Logits [B, P, V] at columns [B, P]."""
        wanted = torch.unique(columns)
        keep = self._keep(wanted)
        logits = self._head(keep)
        index = torch.searchsorted(wanted, columns) if keep else columns
        return logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[-1]))

    def _head(self, keep: dict[str, Any]) -> Tensor:
        """The model's own head on the captured hidden states; logits shaped as `Output.of` says."""
        self._check()
        stubs = [replace_forward(part, _returns(out), outermost=True) for part, out in self._captured.items()]
        try:
            with self._lrp.tape.recording(self._record):
                return self._lrp.skeleton.output.of(self._lrp.model(**self._inputs, **keep))
        finally:
            for stub in stubs:
                stub.remove()

    def top(
        self, k: int = 10, *, position: int = -1, tokenizer: Any = None, extra: Sequence[int | str] = (), row: int = 0
    ) -> list[TopToken]:
        """Top-k table at ``position`` of one row; ``extra`` tokens come with their true rank. Classes by their names.

        Raises:
            TargetError: of a model that answers questions, which ranks no tokens.
        """
        output = self._lrp.skeleton.output
        if output.kind == "span":
            raise TargetError("start and end logits rank positions, not tokens. do: logits() has both, [B, 2, T]")
        logits = self.logits(position)[row]
        return top_tokens(logits, min(k, len(logits)), tokenizer or output.labels, extra)


def _returns(output: Any) -> Callable[..., Any]:
    """A forward that returns the same again; copied, since a model may change the object it gets."""
    return lambda original, *args, **kwargs: copy.copy(output)


def _last_hidden(output: Any) -> Tensor:
    """What the decoder returns; logits where it is a language model itself (EncoderDecoderModel)."""
    if isinstance(output, tuple):
        first: Tensor = output[0]
        return first
    states: Tensor | None = getattr(output, "last_hidden_state", None)
    logits: Tensor = output.logits if states is None else states
    return logits
