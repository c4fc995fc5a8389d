"""Attribution methods behind one interface, so that every suite scores the same ones.

A method is opened on a model and then asked, prompt by prompt, for one score per token: how much the token speaks for
``logit(target) - logit(contrast)`` at the last position. To add one, write a context manager that yields such a
function and give it a row in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

Attribute = Callable[[Tensor, int, int], Tensor]
"""(ids [1, T], target id, contrast id) -> scores [T], float32 on the CPU."""

STEPS = 32
"""Points on the straight path of integrated gradients; the rule is captum's, Gauss-Legendre."""
TOGETHER = 16
"""Perturbed or interpolated copies of the prompt per forward."""


@dataclass(frozen=True)
class Method:
    """One way to attribute.

    Attributes:
        signed: whether a score's sign means anything: + for the target, - for the contrast.
        needs: a package beyond the project's own, if any.
        source: where the method comes from.
    """

    name: str
    open: Callable[[Any], AbstractContextManager[Attribute]]
    source: str
    signed: bool = True
    needs: str = ""

    @property
    def missing(self) -> str:
        """Why it cannot run here, or nothing."""
        return f"{self.name} needs {self.needs}: pip install {self.needs}" if self._absent else ""

    @property
    def _absent(self) -> bool:
        return bool(self.needs) and find_spec(self.needs) is None


def difference(logits: Tensor, target: int, contrast: int) -> Tensor:
    """[B] logit difference at the last position of logits [B, T, V]."""
    return logits[:, -1, target] - logits[:, -1, contrast]


@contextmanager
def by_composite(model: Any, composite: str) -> Iterator[Attribute]:
    """This project's rules: one forward and one backward pass."""
    from lrp_hooks import LogitDiff, instrument

    with instrument(model, composite) as lrp:

        def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
            relevance = lrp.trace(input_ids=ids).attribute(LogitDiff(target, contrast), absorbed=False)
            return relevance.tokens[0].detach().float().cpu()

        yield attribute


@contextmanager
def gradient_x_input(model: Any) -> Iterator[Attribute]:
    """Embedding times plain gradient, without this project's machinery."""

    def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
        embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
        with torch.enable_grad():
            value = difference(model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits, target, contrast)
        (slope,) = torch.autograd.grad(value.sum(), embeds)
        return (embeds * slope).sum(-1)[0].detach().float().cpu()

    yield attribute


@contextmanager
def integrated_gradients(model: Any) -> Iterator[Attribute]:
    """Captum's, from zero embeddings to the prompt's."""
    from captum.attr import IntegratedGradients

    engine = IntegratedGradients(partial(_from_embeddings, model))

    def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
        embeds = model.get_input_embeddings()(ids).detach()
        shares = engine.attribute(
            embeds, additional_forward_args=(target, contrast), n_steps=STEPS, internal_batch_size=TOGETHER
        )
        return shares.sum(-1)[0].detach().float().cpu()

    yield attribute


@contextmanager
def occlusion(model: Any) -> Iterator[Attribute]:
    """Captum's: the difference that a zero embedding in a token's place makes."""
    from captum.attr import Occlusion

    engine = Occlusion(partial(_from_embeddings, model))

    def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
        embeds = model.get_input_embeddings()(ids).detach()
        with torch.no_grad():
            shares = engine.attribute(
                embeds,
                sliding_window_shapes=(1, embeds.shape[-1]),
                additional_forward_args=(target, contrast),
                perturbations_per_eval=TOGETHER,
            )
        return shares[0, :, 0].detach().float().cpu()

    yield attribute


def _from_embeddings(model: Any, embeds: Tensor, target: int, contrast: int) -> Tensor:
    return difference(model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits, target, contrast)


@contextmanager
def attention_rollout(model: Any) -> Iterator[Attribute]:
    """Products of (half identity, half head-averaged attention) over the blocks; knows nothing of the target."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the fused kernels return no weights

    def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
        with torch.no_grad():
            weights = model(ids, use_cache=False, output_attentions=True, logits_to_keep=1).attentions
        row = torch.zeros(ids.shape[1])
        row[-1] = 1.0
        for block in reversed(weights):
            row = 0.5 * row + 0.5 * row @ block[0].float().mean(0).cpu()
        return row

    try:
        yield attribute
    finally:
        model.set_attn_implementation(before)


@contextmanager
def at_random(model: Any) -> Iterator[Attribute]:
    """Normal numbers, the same for the same prompt: what a method must beat."""

    def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
        seed = int((ids.flatten() * torch.arange(1, ids.numel() + 1)).sum()) + 7919 * target + contrast
        return torch.randn(ids.shape[1], generator=torch.Generator().manual_seed(seed))

    yield attribute


METHODS = (
    Method("attnlrp", partial(by_composite, composite="attnlrp"), "arXiv 2402.05602"),
    Method("cp-lrp", partial(by_composite, composite="cp-lrp"), "arXiv 2202.07304"),
    Method("gradient x input", gradient_x_input, "arXiv 1605.01713"),
    Method("integrated gradients", integrated_gradients, "arXiv 1703.01365", needs="captum"),
    Method("occlusion", occlusion, "arXiv 1311.2901", needs="captum"),
    Method("attention rollout", attention_rollout, "arXiv 2005.00928", signed=False),
    Method("random", at_random, ""),
)


def available(names: tuple[str, ...] = ()) -> tuple[list[Method], list[str]]:
    """The methods that can run here (all, or those named), and why others cannot.

    Raises:
        ValueError: a name that no method has; lists the choices.
    """
    known = [method.name for method in METHODS]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown method {name!r}. choices: {', '.join(known)}")
    chosen = [method for method in METHODS if not names or method.name in names]
    return [m for m in chosen if not m.missing], [m.missing for m in chosen if m.missing]
