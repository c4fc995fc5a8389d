"""How much of an untouched model's logits is rounding, where kernels compute its attention in half precision.

A kernel keeps in float32 what the model's own function rounds: scores, their softcap, the weights. Both are the same
function, and their outputs differ by roundings, which a deep model passes on to its logits.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.patching import redirect_attention
from lrp_hooks.structure.blocks import run_probe

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation

HALVES = frozenset((torch.float16, torch.bfloat16))
DRAWS = 3


def attention_noise(lrp: Instrumentation, inputs: dict[str, Tensor], untouched: Tensor) -> float:
    """Largest change of the untouched logits in a few draws of one rounding, of random signs, of each attention call.

    A rounding is eps of the dtype, relative to the scores and to the output. 0.0 where no kernel computes attention in
    half precision: then the values are the model's own, or all but.
    """
    rounded = [lrp.model.get_submodule(path) for path, dtype in lrp.tape.fused.items() if dtype in HALVES]
    if not rounded:
        return 0.0
    changes = []
    with lrp.suspended():
        for draw in range(DRAWS):
            generator = torch.Generator().manual_seed(draw)
            with ExitStack() as undo:
                for module in rounded:
                    undo.callback(redirect_attention(module, _rounding(generator)).remove)
                logits = lrp.skeleton.output.of(run_probe(lrp.model, inputs))
            changes.append((logits - untouched).abs().max())
    return float(torch.stack(changes).max())


def _rounding(generator: torch.Generator) -> Any:
    """The module's own function; scores and output are each off by a rounding."""

    def attend(base: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        # one sign per token and head: a score is off by its own size, whatever cancels in it
        q, k = (_off(x, (*x.shape[:-1], 1), generator) for x in (q, k))
        out, *weights = base(module, q, k, v, *args, **kwargs)
        return _off(out, out.shape, generator), *weights

    return attend


def _off(x: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """x (1 +- eps), with one sign for each element of ``shape``."""
    signs = 2 * torch.randint(0, 2, shape, generator=generator) - 1
    wide = x.float() * (1 + torch.finfo(x.dtype).eps * signs.to(x.device))
    return wide.to(x.dtype)
