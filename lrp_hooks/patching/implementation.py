"""Which attention a model would run if it were not instrumented, and what that makes of a call without a mask."""

from __future__ import annotations

from typing import Any


def remember(config: Any) -> None:
    """Note the implementation of a config that is about to name another one."""
    config._lrp_hooks_base = config._attn_implementation or "eager"


def implementation(owner: Any) -> str:
    """Name of the attention implementation, of a redirected module or its config; "" for attention outside
    transformers' interface."""
    return str(getattr(getattr(owner, "config", owner), "_lrp_hooks_base", ""))


def is_causal(module: Any, options: dict[str, Any]) -> bool:
    """Whether an attention call without a mask lets tokens see only earlier ones, as transformers decides it.

    Its eager functions never do; the others go by the keyword, then by the module's own flag.
    """
    if implementation(module) == "eager":
        return False
    causal = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if causal is None else causal)
