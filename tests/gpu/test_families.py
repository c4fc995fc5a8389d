"""Every family on the GPU: relevance at every point and all edges, by the kernels and by plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from families import EXPERTS, FAMILIES, VARIANTS, inputs
from gpu.compared import CONTRAST, agree, explanation, relevance_parts, skip_unless_it_runs, tiny_twins, twins
from torch import Tensor

from benchmarks.tiny import tiny_ids
from lrp_hooks import instrument

NAMES = [*FAMILIES, *VARIANTS, *EXPERTS]
MIXERS = ("mamba", "mamba2", "lfm2", "qwen3_next", "recurrent_gemma")
"""Tokens mixed by state spaces, convolutions and recurrences, beside attention or without it."""


@pytest.mark.parametrize("name", NAMES)
def test_relevance_and_edges(name: str, device: str) -> None:
    models, ids = twins(name), inputs(name, length=19)
    skip_unless_it_runs(models.low, ids, device)
    agree(models, device, explanation(ids), backends=("auto", "reference"))


@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_implementations(name: str, implementation: str, device: str) -> None:
    models, ids = twins(name, experts=implementation), inputs(name, length=19)
    skip_unless_it_runs(models.low, ids, device)
    agree(models, device, explanation(ids))


@pytest.mark.parametrize("kind", MIXERS)
def test_other_mixers(kind: str, device: str) -> None:
    models, ids = tiny_twins(kind), tiny_ids()
    skip_unless_it_runs(models.low, ids, device)

    def ask(lrp: object, at: str) -> dict[str, Tensor]:
        return relevance_parts(lrp.trace(input_ids=ids.to(at)).attribute(CONTRAST))  # type: ignore[attr-defined]

    agree(models, device, ask, backends=("auto", "reference"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gpt_neox", "gemma3", "cohere2", "mixtral"])
def test_attention_implementations(name: str, attention: str, device: str) -> None:
    agree(twins(name, attention=attention), device, explanation(inputs(name, length=19)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "phi", "mistral", "glm4"])
def test_half_precision(name: str, dtype: torch.dtype, device: str) -> None:
    agree(twins(name, dtype), device, explanation(inputs(name, length=19)), backends=("auto", "reference"))


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "gradient"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_it_is_undone_bit_for_bit(name: str, composite: str, device: str) -> None:
    models, ids = twins(name), inputs(name)
    model, ids = models.low.to(device), ids.to(device)
    before = model(input_ids=ids).logits.detach()
    with instrument(model, composite) as lrp:
        lrp.trace(input_ids=ids).attribute(CONTRAST)
        assert lrp.value_error <= 1e-4 * float(before.abs().max())
    assert torch.equal(model(input_ids=ids).logits, before)
