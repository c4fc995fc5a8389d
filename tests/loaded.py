"""Models on disk and the comparison of two explanations of them, for the tests of ways of loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from families import build, inputs
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lrp_hooks import Logit, instrument
from lrp_hooks.relevance import Relevance

TARGET = Logit(5)
IDS = inputs("llama")


def tiny(dtype: torch.dtype = torch.float32) -> Any:
    """A re-initialised llama with biases, in float32 unless told."""
    return build("llama", dtype=torch.float32).to(dtype)


def save(folder: Path) -> Path:
    tiny().save_pretrained(folder)
    return folder


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def explain(model: nn.Module, ids: Tensor = IDS, **options: Any) -> Relevance:
    with instrument(model, **options) as lrp:
        return lrp.trace(input_ids=ids.to(next(model.parameters()).device)).attribute(TARGET)


def difference(ours: Relevance, theirs: Relevance) -> float:
    """Largest difference at any residual point, relative to the largest entry."""
    return float((ours.layers.cpu() - theirs.layers.cpu()).abs().max() / theirs.layers.abs().max())


def rank_correlation(ours: Tensor, theirs: Tensor) -> float:
    """Spearman's, of all entries."""
    ranks = [x.flatten().argsort().argsort().double() for x in (ours, theirs)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def densified(model: nn.Module) -> Any:
    """`tiny` in float32 with the matrices that ``model``'s linear maps amount to, read from their outputs."""
    plain = tiny()
    for path, module in model.named_modules():
        if isinstance(getattr(module, "in_features", None), int):
            eye = torch.eye(module.in_features, dtype=torch.float32)
            with torch.no_grad():
                zero = module(eye * 0)
                plain.get_submodule(path).weight.copy_((module(eye) - zero).T)
    return plain
