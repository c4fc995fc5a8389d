"""Questions about edges: dense matrices for small inputs, and the pruned attribution graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.build import GraphBuilder, GraphColumns, Pruning, Unit
from lrp_hooks.graph.collect import TransitionSource
from lrp_hooks.graph.detail import Detail
from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.group import Grouping
from lrp_hooks.graph.make import GraphMaker, check_cuts, explained_positions, scores_of
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.graph.packed import StateCollector
from lrp_hooks.graph.plan import Method, check_points, make_plan
from lrp_hooks.loading.origin import origin, short_name
from lrp_hooks.segments import Segment
from lrp_hooks.targets import AnyTarget
from lrp_hooks.tokens import token_texts
from lrp_hooks.trace.attribution import Attributions


class Graphs(Attributions):
    """`edge_matrices` and `graph`."""

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

        Entry [j, i] is the relevance that token j at residual point t sends to token i at point s, in logits,
        float32 (docs/mathematics.md). Rows and columns of padding are 0.

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
        self._listen(target, source.on_point, frozenset({"edges"}), down_to=pairs[0][0])
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
        detail: Detail = False,
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
                over several blocks are made by packed products, as slow as those are. The backward pass ends at the
                first: what is below costs nothing. Default: all.
            mid: all mid points besides, where blocks have them.
            segments: a partition of the tokens (`lrp_hooks.segments`): nodes are segments and edges sums over their
                tokens; `segments.expand` splits one again for a closer look.
            detail: True: also the paths (value, key, query) and the strongest head of each kept edge; "heads": these
                paths of every head (12 bytes per edge and head).
            method: "auto": the closed form where there is one, packed products for other blocks, with a warning;
                "exact" refuses those; "packed" is the slow way for everything.
            connected: keep only edges from which an explained position can be reached: the target's, every position
                whose logits it reads (`SequenceLogProb`), or, for classes, every token that the head reads.
            tokenizer: for the nodes' text; its name goes into ``about["origin"]``, beside the model's.
            progress: called with (transitions done, transitions in all).

        Raises:
            GraphError: thresholds or points out of range, no edge left, a block that the method cannot do, or an
                encoder-decoder model.
            InputError: segments that are no partition.
        """
        self._check_row(row)
        lrp, record = self._lrp, self._record
        pruning = Pruning(node_threshold, node_unit, top_p, edge_threshold)
        plan = make_plan(lrp.skeleton, points, mid=mid, method=method)
        mask = self.attention_mask
        grouping = None if segments is None else Grouping.of(segments, mask.shape[1], mask.device)
        if detail not in (False, True, "heads"):
            raise GraphError(f"detail={detail!r} is unknown. choices: False, True, 'heads'")
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
        relevance = self._listen(target, maker.on_point, frozenset({"edges"}), down_to=int(plan.points[0]))
        maker.finish()
        around = check_cuts(record, relevance, row, method)
        positions = explained_positions(relevance, row)
        ids = None if self.input_ids is None else self.input_ids[row].cpu()
        graph = builder.graph(positions, self._columns(ids, tokenizer, grouping), ids)
        about = {
            "model": short_name(lrp.model),
            "composite": relevance.composite,
            "target": relevance.target,
            "value": float(relevance.value[row]),
            **({} if relevance.target_value is None else {"target_value": float(relevance.target_value[row])}),
            "pruning": asdict(pruning),
            **({"around": around} if around else {}),
            "origin": origin(lrp.model, tokenizer),
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
        self._listen(target, states.on_point, frozenset(), down_to=pairs[0][0])
        every = torch.arange(self.attention_mask.shape[1])
        matrices = {}
        for s, t in pairs:
            span = states.span(lrp.skeleton, lrp.tape, s, t)
            rows = span.row_blocks(every, lrp.checkpointing)
            matrices[s, t] = torch.cat([rows.edges(block) for block in rows.blocks])
        return matrices
