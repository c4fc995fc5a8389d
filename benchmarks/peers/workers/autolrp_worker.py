"""Runs inside autoLRP's environment: attributes every prompt of a request with its AttnLRP preset."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    import autolrp
    import torch
    import transformers

    question, answer = map(Path, sys.argv[1:3])
    request = json.loads(question.read_text())
    # fused attention is decomposed by the tool itself only where it sees it; written out it always does
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        request["model"], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    config = autolrp.LRPConfig(rule={**autolrp.BASE, **autolrp.ATTNLRP})
    results = []
    for prompt in request["prompts"]:
        start = time.perf_counter()
        embeds = autolrp.tensor(model.get_input_embeddings()(torch.tensor([prompt["ids"]])).detach())
        logits = model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits[0, -1]
        value = logits[prompt["target"]] - logits[prompt["contrast"]]
        value.lrp(config=config)
        scores = embeds.relevance.sum(-1)[0].tolist()
        seconds = time.perf_counter() - start
        results.append({"method": "attnlrp", "value": float(value.detach()), "scores": scores, "seconds": seconds})
    versions = f"transformers {transformers.__version__}"
    answer.write_text(json.dumps({"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
