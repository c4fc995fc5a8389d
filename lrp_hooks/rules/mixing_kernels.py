"""What structure cannot tell: a small table, each row with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MixingKernel:
    """A function of transformers that mixes tokens without a softmax.

    Attributes:
        name: of the function, as modeling files call it.
        carrying: the parameters through which relevance flows; every other tensor is a constant.
        reason: why.
    """

    name: str
    carrying: frozenset[str]
    reason: str


_VALUE = frozenset({"value"})
_STATE = frozenset({"hidden_states", "z"})

MIXING_KERNELS: dict[str, MixingKernel] = {
    kernel.name: kernel
    for kernel in (
        MixingKernel(
            "torch_chunk_gated_delta_rule",
            _VALUE,
            "query, key, decay and beta decide how tokens mix, as attention weights do in CP-LRP; value is mixed",
        ),
        MixingKernel("chunk_kimi_delta_attention", _VALUE, "the delta rule with a decay per channel; see above"),
        MixingKernel(
            "mamba_selective_scan",
            _STATE,
            "A, B, C and the step width are functions of the input that decide how it mixes: constants "
            "(MambaLRP, arXiv 2406.07592); z gates the output and shares its product's relevance",
        ),
        MixingKernel("mamba2_chunk_scan", _STATE, "as in Mamba (MambaLRP, arXiv 2406.07592)"),
        MixingKernel(
            "rwkv_linear_attention", _VALUE, "weights exp(key + decay) over their sum: an attention by other means"
        ),
    )
}
