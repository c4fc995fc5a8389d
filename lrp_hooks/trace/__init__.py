"""A trace: one instrumented forward, any number of questions about it."""

from __future__ import annotations

from lrp_hooks.trace.interventions import Interventions
from lrp_hooks.trace.refinement import Refinements

__all__ = ["Trace"]


class Trace(Refinements, Interventions):
    """One forward of an instrumented model with its autograd graph. Made by `Instrumentation.trace`.

    The blocks have run once; logits are computed only at the positions that are asked about (`logits`, `top`). Every
    `attribute`, `graph`, `edge_matrices` and `refine` is one backward pass; `ablate` runs the model again with parts
    cut. The autograd graph is freed when the trace goes out of scope.

    Attributes:
        input_ids: [B, T] or None.
        attention_mask: [B, T] bool.
        prompt_length: tokens of the shared prompt, for traces of two continuations.
    """
