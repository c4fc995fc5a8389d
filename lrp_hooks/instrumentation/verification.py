"""One instrumented forward on the probe: the values are the untouched model's, and every operation is claimed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lrp_hooks.detection.walk import ModuleClock, Unclaimed
from lrp_hooks.errors import InstrumentError, UnclaimedModuleError
from lrp_hooks.instrumentation.claiming import check_ledger, find_unclaimed
from lrp_hooks.instrumentation.noise import attention_noise
from lrp_hooks.recording.checkpointing import SavedBytes
from lrp_hooks.structure.probe import probe_inputs

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation

logger = logging.getLogger(__name__)

Unknown = Literal["error", "gradient"]
VALUES = 1e-2
"""How far logits may be from the untouched model's, of the largest."""
TIMES_NOISE, MOST = 3.0, 0.25
"""The same where kernels compute attention in half precision: in changes by one rounding of it (tiny models of ten
families: the kernels up to 0.9, twice the scale or the softcap from 5), and of the largest logit, from where on the
comparison would say nothing."""


def verify(lrp: Instrumentation, untouched: Tensor, unknown: Unknown) -> tuple[float, list[Unclaimed]]:
    """Run the probe once and measure what activations take on the way.

    Args:
        untouched: the logits of the model before it was instrumented.

    Returns:
        The largest difference of the logits, and the operations without a rule that ``unknown`` lets through.

    Raises:
        InstrumentError: other logits than the untouched model's.
        UnclaimedModuleError, UnsupportedModelError: an operation without a rule; a ledger that does not close.
    """
    clock, saved = ModuleClock(), SavedBytes(lrp.model)
    inputs = probe_inputs(lrp.model)
    last = lrp.skeleton.blocks[-1][1].register_forward_hook(lambda *_: saved.blocks_done())
    try:
        with lrp.checkpointing.using(False), torch.enable_grad(), clock.watching(lrp.model), saved.measuring():
            logits = lrp.skeleton.output.of(lrp.model(**inputs))
    finally:
        last.remove()
    _tell_sizes(lrp, saved, _tokens(inputs))
    error = _value_error(lrp, inputs, logits.detach(), untouched)
    accepted = _claim(lrp, find_unclaimed(lrp, logits, clock), unknown) if lrp.composite.is_lrp else []
    if lrp.composite.is_lrp and unknown == "error":
        check_ledger(lrp)
    lrp.tape.forwards = 0
    return error, accepted


def _tokens(inputs: dict[str, Tensor]) -> int:
    """Tokens of the probe; an image, whose patches only the model counts, as one."""
    return sum(x.numel() for name, x in inputs.items() if name.endswith("input_ids")) or 1


def _value_error(lrp: Instrumentation, inputs: dict[str, Tensor], logits: Tensor, untouched: Tensor) -> float:
    error, scale = float((logits - untouched).abs().max()), float(untouched.abs().max())
    if error <= VALUES * scale:
        return error
    noise = attention_noise(lrp, inputs, untouched)
    if not error <= min(TIMES_NOISE * noise, MOST * scale):
        measured = f"; one rounding of its attention changes those by {noise:.2e}" if noise else ""
        raise InstrumentError(
            f"the instrumented model's logits differ by {error:.2e} (of {scale:.2e}) from the untouched "
            f"model's{measured}. do: report the model; its explanations would be of another function"
        )
    return error


def _tell_sizes(lrp: Instrumentation, saved: SavedBytes, tokens: int) -> None:
    """What checkpointing decides by."""
    decisions = lrp.checkpointing
    decisions.bytes_per_token = saved.inside / tokens
    decisions.logit_bytes = (saved.total - saved.inside) / tokens
    decisions.heads_bytes = _pair_bytes(lrp)
    decisions.stream_bytes = _stream_bytes(lrp)
    decisions.blocks = len(lrp.skeleton.blocks)


def _pair_bytes(lrp: Instrumentation) -> float:
    """Bytes per query-key pair over all blocks: eager attention keeps its weights, the others do not."""
    config: Any = lrp.model.config
    if config._attn_implementation not in ("eager", None):
        return 0.0
    heads = getattr(config.get_text_config(), "num_attention_heads", 1)
    heads = max(heads) if isinstance(heads, (list, tuple)) else heads
    return 3.0 * heads * len(lrp.skeleton.blocks) * next(lrp.model.parameters()).element_size()


def _stream_bytes(lrp: Instrumentation) -> float:
    config: Any = lrp.model.config
    width = next(lrp.skeleton.embedding.parameters()).shape[-1]
    size = getattr(config.get_text_config(), "hidden_size", None) or width
    return float(size * next(lrp.model.parameters()).element_size())


def _claim(lrp: Instrumentation, found: list[Unclaimed], unknown: Unknown) -> list[Unclaimed]:
    plain = [site.path for site in lrp.sites if lrp.composite.rule_for(site) is None]
    found = [u for u in found if not any(u.path == p or u.path.startswith(p + ".") for p in plain if p)]
    if not found or unknown == "gradient":
        for entry in dict.fromkeys(found):
            logger.warning("%s in %s has no LRP rule; its ordinary gradient is used", entry.operation, entry.path)
        return found
    first = found[0]
    module = lrp.model.get_submodule(first.path)
    operations = sorted({u.operation.removesuffix("0").removesuffix("Backward") for u in found if u.path == first.path})
    raise UnclaimedModuleError(
        first.path,
        type(module).__name__,
        lrp.detection.tried.get(first.path, []),
        f"computes {', '.join(operations)} and no rule claims it",
    )
