"""Runs inside inseq's environment: attributes every prompt of a request with its input-times-gradient."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    import inseq
    import torch
    import transformers

    question, answer = map(Path, sys.argv[1:3])
    request = json.loads(question.read_text())
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(request["model"])
    model = inseq.load_model(request["model"], "input_x_gradient", model_kwargs={"dtype": torch.float32})
    results = []
    for prompt in request["prompts"]:
        start = time.perf_counter()
        text, target = tokenizer.decode(prompt["ids"]), tokenizer.decode([prompt["target"]])
        out = model.attribute(
            text,
            text + target,
            attributed_fn="contrast_logits_diff",
            contrast_targets=text + tokenizer.decode([prompt["contrast"]]),
            step_scores=["contrast_logits_diff"],
            show_progress=False,
            attribute_target=False,
        )
        sequence = out.sequence_attributions[0]
        scores = sequence.target_attributions[: len(prompt["ids"]), -1].sum(-1).tolist()
        value = float(sequence.step_scores["contrast_logits_diff"][-1])
        seconds = time.perf_counter() - start
        results.append({"method": "input_x_gradient", "value": value, "scores": scores, "seconds": seconds})
    versions = f"transformers {transformers.__version__}"
    answer.write_text(json.dumps({"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
