"""Runs inside captum's environment: input times gradient, and integrated gradients from zero embeddings."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.serve import Attribute, Prompt, serve

STEPS, TOGETHER = 32, 16


def make(folder: str, method: str) -> tuple[Any, Attribute]:
    import torch
    import transformers
    from captum.attr import InputXGradient, IntegratedGradients

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.requires_grad_(False)

    def value(embeds: Any, target: int, contrast: int) -> Any:
        logits = model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, target] - logits[:, contrast]

    engine, options = {
        "input_x_gradient": (InputXGradient(value), {}),
        "integrated_gradients": (IntegratedGradients(value), {"n_steps": STEPS, "internal_batch_size": TOGETHER}),
    }[method]

    def attribute(prompt: Prompt) -> tuple[float, list[float]]:
        embeds = model.get_input_embeddings()(torch.tensor([prompt["ids"]])).detach()
        pair = (prompt["target"], prompt["contrast"])
        shares = engine.attribute(embeds, additional_forward_args=pair, **options)
        with torch.no_grad():
            explained = float(value(embeds, *pair))
        return explained, shares.sum(-1)[0].tolist()

    return model, attribute


if __name__ == "__main__":
    serve(make)
