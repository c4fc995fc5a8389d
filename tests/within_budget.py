"""Run as a script: the peak memory that questions add to a small random model under `max_memory`, one JSON row each.

A process of its own, since a peak is the process's; glibc's threshold for returning memory to the system must be fixed
(MALLOC_MMAP_THRESHOLD_), so that what the program asks for is what is counted.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from lrp_hooks import LogitDiff, instrument

TOKENS, FEW_TOKENS = 2048, 64
SIZES = {
    "vocab_size": 32_768, "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": TOKENS, "num_hidden_layers": 4,
}  # fmt: skip
TARGET = LogitDiff(3, 5)


def resident(field: str) -> int:
    """VmRSS, or the peak VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def ask(lrp: Any, ids: torch.Tensor, question: str) -> dict[str, Any]:
    """One trace and one question of it; what it adds to the resident memory at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    trace = lrp.trace(input_ids=ids)
    if question == "graph":
        trace.graph(TARGET, connected=False)
    else:
        trace.attribute(TARGET)
    added = resident("VmHWM") - before
    memory = lrp.checkpointing
    return {"question": question, "added": added, "kept": (memory.active, memory.offloading)}


def main() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **SIZES)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    ids = torch.randint(0, 256, (1, TOKENS))
    with instrument(model) as lrp:
        memory = lrp.checkpointing
        memory.can_offload = True  # as in a trace
        needed = {
            "offloaded": memory.offloaded_bytes(1, TOKENS),
            "checkpointed": memory.checkpointed_bytes(1, TOKENS),
            "whole": memory.whole_bytes(1, TOKENS),
        }
        constant = max(ask(lrp, ids[:, :FEW_TOKENS], question)["added"] for question in ("attribute", "graph"))
    for name, budget in needed.items():
        with instrument(model, max_memory=math.ceil(budget)) as lrp:
            row = ask(lrp, ids, "attribute" if name == "whole" else "graph")
        row |= {"name": name, "budget": math.ceil(budget), "constant": constant}
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
