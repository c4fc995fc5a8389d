"""Runs inside inseq's environment: its input-times-gradient."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.serve import Attribute, Prompt, serve


def make(folder: str, method: str) -> tuple[Any, Attribute]:
    import inseq
    import torch
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = inseq.load_model(folder, method, model_kwargs={"dtype": torch.float32})

    def attribute(prompt: Prompt) -> tuple[float, list[float]]:
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
        return float(sequence.step_scores["contrast_logits_diff"][-1]), scores

    return model.model, attribute


if __name__ == "__main__":
    serve(make)
