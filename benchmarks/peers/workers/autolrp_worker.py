"""Runs inside autoLRP's environment: its AttnLRP preset, and the preset with AttnLRP's rules for sums and products.

The preset sets rules for attention only. Sums (the residual stream's, rotary embeddings') keep the tool's default,
which splits relevance by magnitude, |a| / (|a| + |b|), not by sign, a / (a + b). So do gated products, which AttnLRP
halves, and the products with a norm's scale where the tool does not recognise it as one. ``attnlrp, signed`` hands the
tool these three rules through its own configuration, and changes nothing else.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.serve import Attribute, Prompt, serve

Split = tuple[Any, Any]


def one_side(attribute: str, relevance: Any) -> Split | None:
    """All to the operand that alone comes from the input, as the tool asks for it."""
    return {"lhs": (relevance, None), "rhs": (None, relevance)}.get(attribute)


def signed_sum(a: Any, b: Any, relevance: Any, eps: float, *_: Any, attribute: str = "both") -> Split:
    """Epsilon rule of a sum: a / (a + b) and b / (a + b)."""
    total = a + b if attribute == "both" else None
    if total is None:
        return one_side(attribute, relevance) or (None, None)
    total = total.where(total.abs() > eps, total.new_tensor(eps))
    return a / total * relevance, b / total * relevance


def halved_product(a: Any, b: Any, relevance: Any, eps: float, *_: Any, attribute: str = "both") -> Split:
    """Half to each factor; nothing to a norm's scale, one number per token."""
    if attribute != "both":
        return one_side(attribute, relevance) or (None, None)
    for scale, order in ((b, 1), (a, -1)):
        if bool((scale == scale[..., :1]).all()):
            return (relevance, relevance * 0)[::order]
    return relevance * 0.5, relevance * 0.5


def make(folder: str, method: str) -> tuple[Any, Attribute]:
    import autolrp
    import torch
    import transformers

    # fused attention is decomposed by the tool itself only where it sees it; written out it always does
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    preset = {**autolrp.BASE, **autolrp.ATTNLRP}
    own = {"AddBackward": signed_sum, "MulBackward": halved_product}
    config = autolrp.LRPConfig(rule={"attnlrp": preset, "attnlrp, signed": {**preset, **own}}[method])

    def attribute(prompt: Prompt) -> tuple[float, list[float]]:
        embeds = autolrp.tensor(model.get_input_embeddings()(torch.tensor([prompt["ids"]])).detach())
        logits = model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits[:, -1]
        direction = torch.zeros(logits.shape[-1], 1)
        direction[prompt["target"]], direction[prompt["contrast"]] = 1.0, -1.0
        value = (logits @ direction)[0, 0]  # a plain difference would give both logits relevance of one sign
        value.lrp(config=config)
        explained = float(value.detach())
        scores = embeds.relevance.sum(-1)[0] * explained  # the tool starts from 1
        return explained, scores.tolist()

    return model, attribute


if __name__ == "__main__":
    serve(make)
