"""Questions answered by one backward pass: relevance of a target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, overload

import torch
from torch import Tensor

from lrp_hooks.errors import NonFiniteError, TargetError
from lrp_hooks.patching.tensor_parallel import check_whole
from lrp_hooks.recording.records import HALF_SEED_SCALES
from lrp_hooks.recording.result import build_relevance
from lrp_hooks.relevance import Relevance
from lrp_hooks.targets import AnyTarget, SequenceLogProb, SequenceLogProbDiff, as_target
from lrp_hooks.trace.forward import TracedForward

Progress = Callable[[int, int], None]
"""Is told (steps done, steps in all)."""


class _Enough(Exception):
    """Ends a backward pass: nothing below is asked about."""


class Attributions(TracedForward):
    """`attribute`, and what it is made of."""

    @overload
    def attribute(
        self,
        target: AnyTarget,
        *,
        heads: bool = ...,
        neurons: bool = ...,
        absorbed: bool = ...,
        progress: Progress | None = ...,
    ) -> Relevance: ...

    @overload
    def attribute(
        self,
        target: Iterable[AnyTarget],
        *,
        heads: bool = ...,
        neurons: bool = ...,
        absorbed: bool = ...,
        progress: Progress | None = ...,
    ) -> list[Relevance]: ...

    def attribute(
        self,
        target: AnyTarget | Iterable[AnyTarget],
        *,
        heads: bool = False,
        neurons: bool = False,
        absorbed: bool = True,
        progress: Progress | None = None,
    ) -> Relevance | list[Relevance]:
        """Relevance of one target, or of each of several. One backward pass each.

        Args:
            target: a target of `lrp_hooks.targets`, or any function of the logits [B, V] (at the last position, or of
                classes; [B, 2, T] of models that answer questions) that returns one scalar per row, [B].
            heads: also relevance per attention head, [B, L, H, T].
            neurons: also relevance per MLP neuron (B x T x I floats per block).
            absorbed: also what biases, positions and softmax absorbed; needed for `Relevance.ledger`.
            progress: called with (residual points reached, residual points in all) while the gradient runs back.

        Raises:
            RemovedError, TargetError, TokenError, NonFiniteError.
        """
        if isinstance(target, Iterable):
            more: Any = {"heads": heads, "neurons": neurons, "absorbed": absorbed, "progress": progress}
            return [self.attribute(t, **more) for t in target]
        wants = {"heads": heads, "neurons": neurons, "absorbed": absorbed}
        chosen = frozenset(name for name, wanted in wants.items() if wanted)
        if progress is None:
            return self._attribute(target, chosen)
        last = len(self._lrp.skeleton.blocks)
        return self._listen(target, lambda point, *_: progress(last + 1 - point, last + 1), chosen)

    def _listen(self, target: AnyTarget, on_point: Any, wants: frozenset[str], *, down_to: int = 0) -> Relevance:
        """Attribute while something listens at the residual points.

        ``down_to``: the lowest point that is asked about. The backward pass ends there: blocks below cost nothing, and
        their points are 0 in what is returned.
        """

        def listen(point: int, hidden: Tensor, gradient: Tensor) -> None:
            on_point(point, hidden, gradient)
            if 0 < point <= down_to:
                raise _Enough

        self._record.on_point = listen
        try:
            return self._attribute(target, wants)
        finally:
            self._record.on_point = None
            if self._record.latest is not None:
                self._record.latest.parked.clear()

    def _attribute(self, target: AnyTarget, wants: frozenset[str]) -> Relevance:
        check_whole(wants, self._lrp.tape.ranks)
        self._record.want = wants
        with torch.enable_grad():
            value, position, words = self._evaluate(target)
            if not torch.isfinite(value).all():
                raise NonFiniteError(f"the target is not finite: {words} = {value.tolist()}")
            return self._backward(value, position, words)

    def _evaluate(self, target: AnyTarget) -> tuple[Tensor, Tensor | None, str]:
        """The target's value per row with its graph, its position per row (where it is one), and its words."""
        output = self._lrp.skeleton.output
        if isinstance(target, (SequenceLogProb, SequenceLogProbDiff)) and not output.causal:
            raise TargetError(
                f"{type(self._lrp.model).__name__} does not predict the next token: a span of tokens has no probability"
            )
        if isinstance(target, SequenceLogProb):
            value = self._span_log_prob(target.start, target.end)
            return value, None, f"log p(tokens {target.start}:{'' if target.end is None else target.end})"
        if isinstance(target, SequenceLogProbDiff):
            return self._continuation_difference(), None, "log p(target span) - log p(contrast span)"
        target = as_target(target).on(output)
        logits, position = self._logits_at(target.position)
        return target.value(logits), position, target.describe(logits)

    def _span_log_prob(self, start: int, end: int | None) -> Tensor:
        if self.input_ids is None:
            raise TargetError("a span of tokens needs input_ids; this trace ran on inputs_embeds")
        first = self.positions(start)
        last = self.positions(-1) + 1 if end is None else self.positions(end)
        lengths = last - first
        if bool((lengths < 1).any()) or bool((first - self.positions(0) < 1).any()):
            raise TargetError(f"the span {start}:{end} is empty, or starts at the first token, which nothing predicts")
        offsets = torch.arange(int(lengths.max()), device=first.device)
        inside = offsets < lengths[:, None]
        columns = torch.where(inside, first[:, None] + offsets, last[:, None] - 1)  # [B, P], the rest repeats the last
        log_p = torch.log_softmax(self._logits(columns - 1).float(), -1)
        picked = log_p.gather(-1, self.input_ids.gather(1, columns)[:, :, None]).squeeze(-1)
        return (picked * inside).sum(1)

    def _continuation_difference(self) -> Tensor:
        if self.prompt_length is None:
            raise TargetError(
                "SequenceLogProbDiff needs a trace made by lrp.trace_continuations(prompt, target, contrast)"
            )
        sign = torch.tensor([1.0, -1.0], device=self.attention_mask.device)
        return self._span_log_prob(self.prompt_length, None) * sign

    def _backward(self, value: Tensor, position: Tensor | None, words: str) -> Relevance:
        record, lrp = self._record, self._lrp
        for scale in HALF_SEED_SCALES if record.seed_scale != 1.0 else (1.0,):
            record.seed_scale, record.latest = scale, None
            with suppress(_Enough):
                value.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            relevance = build_relevance(
                record, lrp.skeleton, lrp.composite.name, target=words, target_value=value.detach(), position=position
            )
            if torch.isfinite(relevance.layers).all() and torch.isfinite(relevance.tokens).all():
                return relevance
        raise NonFiniteError(
            f"the relevance of {words} is not finite in {next(lrp.model.parameters()).dtype}. do: float32"
        )
