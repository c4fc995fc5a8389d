"""Runs inside LXT's environment: attributes every prompt of a request with AttnLRP and CP-LRP.

LXT patches classes and has no way back, so each method runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any


def without_vision() -> None:
    """LXT imports rules for torchvision's vision transformer along with all others; no language model needs them."""
    from torch import nn

    vision, models, part = (types.ModuleType(name) for name in ("torchvision", "torchvision.models", "part"))
    part.__getattr__ = lambda name: nn if name == "nn" else type(name, (), {})  # type: ignore[method-assign]
    models.vision_transformer, vision.models = part, models  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": vision, "torchvision.models": models})


def attribute(request: dict[str, Any], method: str) -> list[dict[str, Any]]:
    import torch
    from transformers.models.llama import modeling_llama

    without_vision()
    from lxt.efficient import monkey_patch
    from lxt.efficient.models import llama as rules

    table = {"attnlrp": rules.attnLRP, "cp-lrp": rules.cp_LRP}[method]
    monkey_patch(modeling_llama, table)
    model = modeling_llama.LlamaForCausalLM.from_pretrained(request["model"], torch_dtype=torch.float32).eval()
    model.requires_grad_(False)
    results = []
    for prompt in request["prompts"]:
        start = time.perf_counter()
        embeds = model.get_input_embeddings()(torch.tensor([prompt["ids"]])).requires_grad_()
        logits = model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits[0, -1]
        value = logits[prompt["target"]] - logits[prompt["contrast"]]
        value.backward()
        scores = (embeds * embeds.grad).sum(-1)[0].tolist()
        seconds = time.perf_counter() - start
        results.append({"method": method, "value": float(value.detach()), "scores": scores, "seconds": seconds})
    return results


def main() -> None:
    question, answer = map(Path, sys.argv[1:3])
    request = json.loads(question.read_text())
    if len(sys.argv) > 3:
        answer.write_text(json.dumps(attribute(request, sys.argv[3])))
        return
    results = []
    for method in request["methods"]:
        part = answer.with_suffix(f".{method}.json")
        subprocess.run([sys.executable, __file__, str(question), str(part), method], check=True)
        results += json.loads(part.read_text())
    import transformers

    versions = f"transformers {transformers.__version__}"
    answer.write_text(json.dumps({"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
