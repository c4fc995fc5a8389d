"""A trace: one instrumented forward, any number of questions about it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from lrp_hooks.attribute import build_relevance
from lrp_hooks.errors import (
    GradientError,
    GraphError,
    NonFiniteError,
    RemovedError,
    TargetError,
)
from lrp_hooks.graph.build import GraphBuilder, GraphColumns, Pruning, Unit
from lrp_hooks.graph.collect import TransitionSource
from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.group import Grouping
from lrp_hooks.graph.make import GraphMaker, scores_of
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.graph.packed import StateCollector, copies_that_fit
from lrp_hooks.graph.plan import Method, check_points, make_plan
from lrp_hooks.patching import replace_forward
from lrp_hooks.relevance import Relevance
from lrp_hooks.segments import Segment
from lrp_hooks.tape import ForwardRecord
from lrp_hooks.targets import AnyTarget, Custom, SequenceLogProb, SequenceLogProbDiff, Target, TopToken, top_tokens
from lrp_hooks.tokens import token_texts

if TYPE_CHECKING:
    from lrp_hooks.instrumentation import Instrumentation

HALF_SEED_SCALES = (256.0, 16.0, 1.0, 1.0 / 16.0)
"""float16 seeds, tried in order until no score overflows."""


class Trace:
    """One forward of an instrumented model with its autograd graph. Made by `Instrumentation.trace`.

    The blocks have run once; logits are computed only at the positions that are asked about, and every `attribute` is
    one backward pass. The graph is freed when the trace goes out of scope.

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

    # Logits ----------------------------------------------------------------------------------------------------------

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

    # Attribution -----------------------------------------------------------------------------------------------------

    @overload
    def attribute(
        self, target: AnyTarget, *, heads: bool = ..., neurons: bool = ..., absorbed: bool = ...
    ) -> Relevance: ...

    @overload
    def attribute(
        self, target: Iterable[AnyTarget], *, heads: bool = ..., neurons: bool = ..., absorbed: bool = ...
    ) -> list[Relevance]: ...

    def attribute(
        self,
        target: AnyTarget | Iterable[AnyTarget],
        *,
        heads: bool = False,
        neurons: bool = False,
        absorbed: bool = True,
    ) -> Relevance | list[Relevance]:
        """Relevance of one target, or of each of several. One backward pass each.

        Args:
            target: a target of `lrp_hooks.targets`, or any function of the logits [B, V] at the last position that
                returns one scalar per row, [B].
            heads: also relevance per attention head, [B, L, H, T].
            neurons: also relevance per MLP neuron (B x T x I floats per block).
            absorbed: also what biases, positions and softmax absorbed; needed for `Relevance.ledger`.

        Raises:
            RemovedError, TargetError, TokenError, NonFiniteError.
        """
        if isinstance(target, Iterable):
            return [self.attribute(t, heads=heads, neurons=neurons, absorbed=absorbed) for t in target]
        wants = {"heads": heads, "neurons": neurons, "absorbed": absorbed}
        return self._attribute(target, frozenset(name for name, wanted in wants.items() if wanted))

    def edge_matrices(
        self,
        target: AnyTarget,
        layers: Sequence[int] | None = None,
        by: Literal["sum", "head", "path"] = "sum",
        *,
        method: Literal["exact", "packed"] = "exact",
        row: int = 0,
    ) -> dict[tuple[int, int], Tensor]:
        """Dense edges between residual points, for small inputs: ``{(s, t): [T, T]}``.

        Entry [j, i] is the relevance that token j at residual point t sends to token i at point s (DESIGN.md,
        section 4), in logits, float32. Rows and columns of padding are 0.

        Args:
            layers: ascending residual points, 0..L; transitions are its neighbouring pairs. Default: all.
            by: "sum" over heads [T, T]; "head" [H, T, T], the attention part of each head; "path" [4, T, T]: value,
                key and query path and the token-local rest, which add up to the sum.
            method: "exact", the closed form inside the one backward pass; "packed", re-running blocks on copies of the
                sequence (arXiv 2604.17761, appendix A), also for points several blocks apart and other mixers.
            row: which sequence of the batch.

        Raises:
            GraphError: layers out of range or not ascending, a block without a closed form, an unknown option.
        """
        self._check_row(row)
        if by not in ("sum", "head", "path") or method not in ("exact", "packed"):
            raise GraphError(f"by={by!r}, method={method!r}: choices are sum, head, path and exact, packed")
        skeleton = self._lrp.skeleton
        points = check_points(skeleton, range(len(skeleton.blocks) + 1) if layers is None else layers)
        if any(p % 1 for p in points):
            raise GraphError("matrices are made between whole residual points; graph() knows mid points")
        pairs = [(int(s), int(t)) for s, t in pairwise(points)]
        if method == "packed":
            return self._packed_matrices(target, pairs, by, row)
        if any(t != s + 1 for s, t in pairs):
            raise GraphError("points several blocks apart have no closed form. do: method='packed'")
        matrices: dict[tuple[int, int], Tensor] = {}

        def keep(block: int, made: Transition) -> None:
            matrices[block, block + 1] = made.dense(by)

        source = self._source(row, frozenset(s for s, _ in pairs), keep)
        self._listen(target, source.on_point, frozenset({"edges"}))
        return {pair: matrices[pair] for pair in pairs}

    def _check_row(self, row: int) -> None:
        self._check()
        if not 0 <= row < self.attention_mask.shape[0]:
            raise GraphError(f"row {row} is outside the batch of {self.attention_mask.shape[0]}")

    def _source(self, row: int, blocks: frozenset[int], each: Callable[[int, Transition], None]) -> TransitionSource:
        lrp = self._lrp
        return TransitionSource(lrp.skeleton, lrp.tape, self._record, lrp.block_knowledge, row, blocks, each)

    def graph(
        self,
        target: AnyTarget,
        *,
        node_threshold: float = 0.01,
        node_unit: Unit = "logits",
        top_p: float = 0.85,
        edge_threshold: float | None = None,
        points: Sequence[float] | None = None,
        mid: bool = False,
        segments: Sequence[Segment] | None = None,
        detail: bool = False,
        method: Method = "auto",
        connected: bool = True,
        row: int = 0,
        tokenizer: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AttributionGraph:
        """The attribution graph of one target, in one backward pass: all transitions, exact, pruned while streaming.

        Memory beyond the attribution's is one block's q, k, v and a few row blocks; no [T, T] array is made.

        Args:
            node_threshold: drop the rows of nodes with |R| not above it (0 keeps all), in ``node_unit``: "logits",
                "value" (share of the explained value) or "layer" (share of sum |R| at the point).
            top_p: per transition keep the smallest set of edges that carries this share of sum |A|.
            edge_threshold: instead of top_p, keep all edges with |A| above it (logits).
            points: ascending residual points that end at the last, l + 0.5 for the mid point of block l. Transitions
                over several blocks are made by packed products, as slow as those are. Default: all.
            mid: all mid points besides, where blocks have them.
            segments: a partition of the tokens (`lrp_hooks.segments`): nodes are segments and edges sums over their
                tokens; `segments.expand` splits one again for a closer look.
            detail: also the paths (value, key, query) and the strongest head of each kept edge.
            method: "auto": the closed form where there is one, packed products for other blocks, with a warning;
                "exact" refuses those; "packed" is the slow way for everything.
            connected: keep only edges from which the explained position can be reached.
            tokenizer: for the nodes' text.
            progress: called with (transitions done, transitions in all).

        Raises:
            GraphError: thresholds or points out of range, no edge left, a block that the method cannot do.
            InputError: segments that are no partition.
        """
        self._check_row(row)
        lrp, record = self._lrp, self._record
        pruning = Pruning(node_threshold, node_unit, top_p, edge_threshold)
        plan = make_plan(lrp.skeleton, points, mid=mid, method=method)
        mask = self.attention_mask
        grouping = None if segments is None else Grouping.of(segments, mask.shape[1], mask.device)
        if grouping is not None and detail:
            raise GraphError("edges between segments are sums over many heads and paths. do: detail=False")

        def value() -> float:
            explained = record.latest.value if record.latest is not None else None
            return 0.0 if explained is None else float(explained[row])

        builder = GraphBuilder(plan, pruning, partial(scores_of, record, row), value, grouping, detail, progress)
        needed = frozenset(p for step in plan.packed_steps() for p in (step.block, step.end))
        maker = GraphMaker(
            lrp.skeleton,
            lrp.tape,
            record,
            self._source(row, plan.exact_blocks, builder.exact),
            StateCollector(record, row, needed),
            builder,
            method,
            lrp.checkpointing,
        )
        relevance = self._listen(target, maker.on_point, frozenset({"edges"}))
        maker.finish()
        position = relevance.position
        assert position is not None
        ids = None if self.input_ids is None else self.input_ids[row].cpu()
        graph = builder.graph(int(position[row]), self._columns(ids, tokenizer, grouping), ids)
        about = {
            "model": type(lrp.model).__name__,
            "composite": relevance.composite,
            "target": relevance.target,
            "value": float(relevance.value[row]),
            "pruning": asdict(pruning),
        }
        graph = replace(graph, about=about)
        return graph.connected() if connected else graph

    def _columns(self, ids: Tensor | None, tokenizer: Any, grouping: Grouping | None) -> GraphColumns:
        length = self.attention_mask.shape[1]
        texts = None if ids is None else token_texts(tokenizer, ids.tolist())
        names = [f"[{i}]" for i in range(length)] if texts is None else [t.display for t in texts]
        special = [False] * length if texts is None else [t.special for t in texts]
        if grouping is None:
            return GraphColumns(tuple(names), tuple(special))
        parts = grouping.segments
        return GraphColumns(tuple(s.name for s in parts), tuple(all(special[s.start : s.stop]) for s in parts))

    def _packed_matrices(
        self, target: AnyTarget, pairs: list[tuple[int, int]], by: str, row: int
    ) -> dict[tuple[int, int], Tensor]:
        if by != "sum":
            raise GraphError("packed products know no heads or paths. do: by='sum', or method='exact'")
        lrp, states = self._lrp, StateCollector(self._record, row)
        self._listen(target, states.on_point, frozenset())
        memory, blocks, length = lrp.checkpointing, len(lrp.skeleton.blocks), self.attention_mask.shape[1]
        matrices = {}
        for s, t in pairs:
            span = states.span(lrp.skeleton, lrp.tape, s, t)
            chunk = copies_that_fit(memory, length, t - s, blocks, span.hidden.device)
            rows = span.row_blocks(torch.arange(length), chunk)
            matrices[s, t] = torch.cat([rows.edges(block) for block in rows.blocks])
        return matrices

    def _listen(self, target: AnyTarget, on_point: Any, wants: frozenset[str]) -> Relevance:
        """Attribute while something listens at the residual points."""
        self._record.on_point = on_point
        try:
            return self._attribute(target, wants)
        finally:
            self._record.on_point = None
            if self._record.latest is not None:
                self._record.latest.parked.clear()

    def _attribute(self, target: AnyTarget, wants: frozenset[str]) -> Relevance:
        self._record.want = wants
        with torch.enable_grad():
            value, position, words = self._evaluate(target)
            if not torch.isfinite(value).all():
                raise NonFiniteError(f"the target is not finite: {words} = {value.tolist()}")
            return self._backward(value, position, words)

    def _evaluate(self, target: AnyTarget) -> tuple[Tensor, Tensor, str]:
        """The target's value per row with its graph, its position per row, and its description."""
        if isinstance(target, SequenceLogProb):
            value = self._span_log_prob(target.start, target.end)
            return value, self.positions(-1), f"log p(tokens {target.start}:{'' if target.end is None else target.end})"
        if isinstance(target, SequenceLogProbDiff):
            return self._continuation_difference(), self.positions(-1), "log p(target span) - log p(contrast span)"
        if not isinstance(target, Target):
            if not callable(target):
                raise TargetError(f"{target!r} is not a target. do: LogitDiff(...), or a function of the logits [B, V]")
            target = Custom(target, getattr(target, "__name__", "custom target"))
        position = self.positions(target.position)
        logits = self._logits(position[:, None])[:, 0]
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

    def _backward(self, value: Tensor, position: Tensor, words: str) -> Relevance:
        record, lrp = self._record, self._lrp
        for scale in HALF_SEED_SCALES if record.seed_scale != 1.0 else (1.0,):
            record.seed_scale, record.latest = scale, None
            value.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            relevance = build_relevance(
                record, lrp.skeleton, lrp.composite.name, target=words, target_value=value.detach(), position=position
            )
            if torch.isfinite(relevance.layers).all() and torch.isfinite(relevance.tokens).all():
                return relevance
        raise NonFiniteError(
            f"the relevance of {words} is not finite in {next(lrp.model.parameters()).dtype}. do: float32"
        )


def _last_hidden(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return states
