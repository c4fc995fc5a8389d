"""What each tap does with what it sees: relevance reduced to scores and stored in the record of the running pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lrp_hooks.ops import relevance_sum
from lrp_hooks.patching import loaded
from lrp_hooks.patching.tensor_parallel import is_sharded, local
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.taps import Store, tap


def per_row(scores: Tensor) -> Tensor:
    """Sum over everything but the batch, [B]."""
    return scores.reshape(scores.shape[0], -1).sum(1)


def store_point(record: ForwardRecord, point: int) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        current = record.current()
        current.add(current.points, point, record.unscaled(relevance_sum(x, grad)))
        if record.on_point is not None:
            record.on_point(point, x, grad)

    return store


def tap_around(record: ForwardRecord, block: int, value: Any) -> Any:
    """Tap what a block is given besides its hidden states and carries relevance: it flows around residual points.

    A tensor given by itself is used by this block. One in a dictionary that the blocks share (keys and values of an
    earlier block) is put back tapped, so that a tap sees what all later blocks make of it.
    """
    if isinstance(value, Tensor):
        return tap(value, _store_around(record, block, False)) if value.requires_grad else value
    if isinstance(value, dict):
        for key in value:
            value[key] = _tap_shared(record, block, value[key])
    return value


def _tap_shared(record: ForwardRecord, block: int, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_tap_shared(record, block, v) for v in value)
    if isinstance(value, Tensor) and value.requires_grad:
        return tap(value, _store_around(record, block, True))
    return value


def _store_around(record: ForwardRecord, block: int, shared: bool) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        if record.want & {"absorbed", "edges"}:
            current = record.current()
            current.add(current.around, (block, shared), record.unscaled(record.per_row(relevance_sum(x, grad))))

    return store


def store_mid(record: ForwardRecord, block: int) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        current = record.current()
        current.add(current.mid, block, record.unscaled(relevance_sum(x, grad)))

    return store


def store_tokens(record: ForwardRecord) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        current, scores = record.current(), record.unscaled(relevance_sum(as_tokens(x), as_tokens(grad)))
        current.tokens = scores if current.tokens is None else current.tokens + scores

    return store


def as_tokens(x: Tensor) -> Tensor:
    """[B, T, D]: a map of patches [B, D, height, width] is read row by row."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def store_value(record: ForwardRecord) -> Store:
    """The explained value sum_k l_k df/dl_k, from the logits [B, T, V] or [B, V]."""

    def store(logits: Tensor, grad: Tensor) -> None:
        current, scores = record.current(), per_row(relevance_sum(logits, grad))
        current.value = scores if current.value is None else current.value + scores

    return store


def store_received(record: ForwardRecord) -> Store:
    """What an encoder's stream explains: the relevance that its output receives from the decoder's blocks."""

    def store(x: Tensor, grad: Tensor) -> None:
        current, scores = record.current(), record.unscaled(per_row(relevance_sum(x, grad)))
        current.value = scores if current.value is None else current.value + scores

    return store


def store_bias(record: ForwardRecord, path: str, module: nn.Module) -> Callable[[Tensor], None]:
    """The share <b, gradient> of a module's additive bias."""

    def store(grad: Tensor) -> None:
        if "absorbed" in record.want:
            with loaded(module):
                bias: Any = module.bias
                per_token = relevance_bias(local(bias).detach(), channels_last(module, grad))
                share = record.per_row(per_token)
                share = record.summed(share) if is_sharded(bias) else share
            current = record.current()
            current.add(current.biases, path, record.unscaled(share))

    return store


def store_offset(record: ForwardRecord, path: str, offset: float) -> Callable[[Tensor], None]:
    """The share of a constant number added to every element, f(0) of an activation."""

    def store(grad: Tensor) -> None:
        if "absorbed" in record.want:
            current = record.current()
            current.add(current.biases, path, record.unscaled(record.per_row(grad.float()) * offset))

    return store


def channels_last(module: nn.Module, grad: Tensor) -> Tensor:
    """A convolution's output has its channels, and so its bias, in dimension 1."""
    return grad.movedim(1, -1) if isinstance(module, (nn.Conv1d, nn.Conv2d)) else grad


def relevance_bias(bias: Tensor, grad: Tensor) -> Tensor:
    """<bias, grad> over the last dimension, in float32 (float64 for float64)."""
    return relevance_sum(bias.expand(grad.shape[-bias.dim() :]), grad)


def store_neurons(record: ForwardRecord | None, block: int | None) -> Store | None:
    """Neuron scores: act(gate) * up (in the compute dtype) times its gradient, per element, on request."""
    if record is None or block is None:
        return None

    def store(value: Tensor, grad: Tensor) -> None:
        if "neurons" in record.want and (record.only is None or block in record.only):
            current = record.current()
            scores = (value * grad.to(value.dtype)).reshape(record.rows, -1, value.shape[-1])
            current.add(current.neurons, block, record.unscaled(scores))

    return store
