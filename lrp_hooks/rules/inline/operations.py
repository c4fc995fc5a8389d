"""Rules of single torch functions, by the function's name, for `lrp_hooks.rules.inline.claim`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lrp_hooks.rules.inline.carrying import Operation
from lrp_hooks.rules.inline.elementwise import as_constant, elementwise, extreme, power, quotient
from lrp_hooks.rules.inline.products import attention, baddbmm, bilinear, einsum, glu, product, softmax
from lrp_hooks.rules.inline.sums import (
    addition,
    concatenation,
    convolution,
    functional_norm,
    linear,
    masked_fill,
    normalize,
    where,
)

if TYPE_CHECKING:
    from lrp_hooks.rules.inline.claim import Scope


def pick(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Experts regroup their tokens; the row of the batch is kept for the books."""
    tokens, record = scope.tokens, scope.site.tape.record
    if tokens is not None and args and args[0] is tokens and record is not None:
        per_row = max(1, tokens.shape[0] // record.rows)
        count = torch.arange(tokens.shape[0], device=tokens.device)
        scope.rows = func(count, *args[1:], **kwargs).flatten() // per_row
    return func(*args, **kwargs)


def _named(operation: Operation, *names: str) -> dict[str, Operation]:
    return dict.fromkeys(names, operation)


OPERATIONS: dict[str, Operation] = {
    **_named(as_constant, "exp", "exp_", "exp2", "rsqrt", "rsqrt_", "sqrt", "norm", "vector_norm", "linalg_norm"),
    **_named(as_constant, "linalg_vector_norm", "reciprocal", "log", "log2", "logsumexp", "var", "std", "cumprod"),
    **_named(as_constant, "amax", "topk", "sort"),
    **_named(quotient, "div", "div_", "true_divide", "__truediv__", "__rtruediv__", "__itruediv__", "__rdiv__"),
    **{name: partial(elementwise, name) for name in ("silu", "gelu", "relu", "tanh", "sigmoid", "mish")},
    **_named(partial(elementwise, None), "softplus", "relu6", "leaky_relu", "elu", "hardtanh", "logsigmoid", "erf"),
    **_named(partial(elementwise, None), "clamp", "clip", "clamp_min", "clamp_max", "abs", "sin", "cos", "expm1"),
    **_named(extreme, "min", "max", "minimum", "maximum"),
    **_named(power, "pow", "square", "__pow__"),
    **_named(glu, "glu"),
    **_named(product, "mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"),
    **_named(bilinear, "matmul", "__matmul__", "__rmatmul__", "bmm", "mm"),
    **_named(einsum, "einsum"),
    **_named(baddbmm, "baddbmm"),
    **_named(softmax, "softmax", "_softmax"),
    **_named(attention, "scaled_dot_product_attention"),
    **_named(normalize, "normalize"),
    **_named(partial(functional_norm, True), "layer_norm"),
    **_named(partial(functional_norm, False), "rms_norm"),
    **_named(partial(addition, 1), "add", "add_", "__add__", "__radd__", "__iadd__"),
    **_named(partial(addition, -1), "sub", "sub_", "subtract", "__sub__", "__rsub__", "__isub__", "rsub"),
    **_named(masked_fill, "masked_fill", "masked_fill_"),
    **_named(where, "where"),
    **_named(concatenation, "cat", "concat", "concatenate", "stack"),
    **_named(linear, "linear"),
    **_named(convolution, "conv1d", "conv2d"),
    **_named(pick, "__getitem__", "index_select", "repeat_interleave"),
}
