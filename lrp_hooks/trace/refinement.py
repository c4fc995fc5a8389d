"""Questions below the level of tokens: the parts of chosen nodes, edges between chosen neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.packed import StateCollector
from lrp_hooks.graph.refine import NeuronEdges, NodeParts, neuron_edges
from lrp_hooks.ops import compute_dtype
from lrp_hooks.targets import AnyTarget
from lrp_hooks.trace.graphs import Graphs


class Refinements(Graphs):
    """`refine` and `neuron_edges`."""

    def refine(self, target: AnyTarget, nodes: Iterable[tuple[int, int]], *, row: int = 0) -> list[NodeParts]:
        """What the relevance of chosen nodes consists of: hidden dimensions, heads, MLP neurons. One backward pass.

        Args:
            nodes: (residual point, token), as in a graph's paths.

        Raises:
            GraphError: a node outside the trace.
        """
        self._check_row(row)
        wanted = [(self._whole_point(point), self._token(token, row)) for point, token in nodes]
        points = frozenset(point for point, _ in wanted)
        states = StateCollector(self._record, row, points)
        self._record.only = frozenset(point - 1 for point in points)
        try:
            self._listen(target, states.on_point, frozenset({"heads", "neurons"}))
        finally:
            self._record.only = None
        return [self._parts(states, point, token, row) for point, token in wanted]

    def _parts(self, states: StateCollector, point: int, token: int, row: int) -> NodeParts:
        hidden, gradient = states.hidden[point][0, token], states.gradient[point][0, token]
        dtype = compute_dtype(hidden)
        dimensions = self._record.unscaled(hidden.to(dtype) * gradient.to(dtype)).float().cpu()
        done = self._record.latest
        assert done is not None

        def of_block(table: dict[int, Tensor]) -> Tensor | None:
            return table[point - 1][row, token].float().cpu() if point - 1 in table else None

        return NodeParts(
            point, token, float(dimensions.sum()), dimensions, of_block(done.heads), of_block(done.neurons)
        )

    def neuron_edges(
        self,
        target: AnyTarget,
        block: int,
        token: int,
        neurons: Sequence[int],
        *,
        lowest: int | None = None,
        row: int = 0,
    ) -> NeuronEdges:
        """Edges from the MLP neurons of lower blocks to chosen neurons of one token, on the frozen graph.

        One backward pass, one run of the blocks between, and one backward pass through them per chosen neuron. The
        result holds N x T x I numbers per lower block.

        Args:
            block, token, neurons: the chosen (upper) neurons.
            lowest: first of the lower blocks; default the block just below.

        Raises:
            GraphError: nothing below, indices out of range, or a block without one known MLP.
        """
        self._check_row(row)
        lowest = block - 1 if lowest is None else lowest
        if not 0 <= lowest < block < len(self._lrp.skeleton.blocks):
            raise GraphError(
                f"blocks {lowest} and {block} must ascend and lie in 0..{len(self._lrp.skeleton.blocks) - 1}"
            )
        token = self._token(token, row)
        states = StateCollector(self._record, row, frozenset({lowest, block + 1}))
        self._listen(target, states.on_point, frozenset(), down_to=lowest)
        span = states.span(self._lrp.skeleton, self._lrp.tape, lowest, block + 1)
        return neuron_edges(span, self._lrp.sites, lowest, token, neurons)

    def _whole_point(self, point: float) -> int:
        last = len(self._lrp.skeleton.blocks)
        if point % 1 or not 0 <= point <= last:
            raise GraphError(f"residual point {point} must be a whole number in 0..{last}")
        return int(point)

    def _token(self, token: int, row: int) -> int:
        if not 0 <= token < self.attention_mask.shape[1] or not bool(self.attention_mask[row, token]):
            raise GraphError(f"token {token} is outside the prompt, or padding")
        return token
