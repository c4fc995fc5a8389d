"""Causal checks: run the model again with heads, attention edges or tokens cut, and read the target's new value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_hooks.errors import TargetError
from lrp_hooks.structure.probe import without_cache
from lrp_hooks.targets import AnyTarget, SequenceLogProb, SequenceLogProbDiff, as_target
from lrp_hooks.trace.ablation import Cut, EdgeCut, HeadCut
from lrp_hooks.trace.attribution import Attributions


@dataclass(frozen=True, eq=False)
class Ablation:
    """What a cut did to the target.

    Attributes:
        before, after: the target's value with the whole model and with the cut one, in the target's unit.
        logits: [V] float32 ([2, T] of answers), at the target's position, of the cut model.
        target: what was measured, in words.
    """

    before: float
    after: float
    logits: Tensor
    target: str

    @property
    def change(self) -> float:
        return self.after - self.before


class Interventions(Attributions):
    """`ablate`."""

    def ablate(
        self,
        target: AnyTarget,
        *,
        heads: Iterable[HeadCut] = (),
        edges: Iterable[EdgeCut] = (),
        tokens: Sequence[int] = (),
        row: int = 0,
    ) -> Ablation:
        """Run the model again with parts cut and return the target's new value. No gradient is involved.

        Args:
            target: as in `attribute`; ranks mean the tokens that hold them before the cut.
            heads: (block, head): the head's output is set to 0 at every token.
            edges: (block, source, target) or (block, source, target, head): in that block (and head) token ``target``
                does not see token ``source``; the softmax gives its weight to the others (attention knockout, arXiv
                2304.14767). `AttributionGraph.attention_edges` lists those of a graph.
            tokens: no other token sees these, in any block; they still see themselves.
            row: which sequence of the batch.

        Raises:
            InputError: blocks, heads or tokens out of range, a token left with nothing to see, or attention whose mask
                is not a tensor.
        """
        self._check()
        if isinstance(target, (SequenceLogProb, SequenceLogProbDiff)):
            raise TargetError("the log-probability of a span is no target for cuts. do: a target at one position")
        output = self._lrp.skeleton.output
        target = as_target(target).on(output)
        with torch.no_grad():
            logits, columns = self._logits_at(target.position)
            whole, column = logits[row : row + 1], None if columns is None else columns[row : row + 1]
            target = target.fixed(whole)
            at = None if column is None else int(column)
            cut = Cut.of(heads, edges, tokens, row, self._lrp.skeleton, self.attention_mask[row], at)
            keep = {} if column is None else self._keep(column)
            with self._lrp.tape.detoured(cut, len(self.attention_mask)):
                out = output.of(self._lrp.model(**self._inputs, **without_cache(self._lrp.model), **keep))
        changed = out[row : row + 1] if column is None else out[row, -1:] if keep else out[row, column]
        values = [float(target.value(x)) for x in (whole, changed)]
        return Ablation(values[0], values[1], changed[0].float(), target.describe(whole))
