"""Runs inside LXT's environment: AttnLRP or CP-LRP. LXT patches classes and has no way back: one method per process."""

from __future__ import annotations

import sys
import types
from typing import Any

from benchmarks.peers.workers.serve import Attribute, Prompt, serve


def without_vision() -> None:
    """LXT imports rules for torchvision's vision transformer along with all others; no language model needs them."""
    from torch import nn

    vision, models, part = (types.ModuleType(name) for name in ("torchvision", "torchvision.models", "part"))
    part.__getattr__ = lambda name: nn if name == "nn" else type(name, (), {})  # type: ignore[method-assign]
    models.vision_transformer, vision.models = part, models  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": vision, "torchvision.models": models})


def make(folder: str, method: str) -> tuple[Any, Attribute]:
    import torch
    from transformers.models.llama import modeling_llama

    without_vision()
    from lxt.efficient import monkey_patch
    from lxt.efficient.models import llama as rules

    monkey_patch(modeling_llama, {"attnlrp": rules.attnLRP, "cp-lrp": rules.cp_LRP}[method])
    model = modeling_llama.LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    model.requires_grad_(False)

    def attribute(prompt: Prompt) -> tuple[float, list[float]]:
        embeds = model.get_input_embeddings()(torch.tensor([prompt["ids"]])).requires_grad_()
        logits = model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits[0, -1]
        value = logits[prompt["target"]] - logits[prompt["contrast"]]
        value.backward()
        return float(value.detach()), (embeds * embeds.grad).sum(-1)[0].tolist()

    return model, attribute


if __name__ == "__main__":
    serve(make)
