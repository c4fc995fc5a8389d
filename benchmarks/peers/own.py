"""This project's methods by the names that peers are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.methods import METHODS, STEPS, Attribute, Method, by_composite


@contextmanager
def integrated(model: Any) -> Iterator[Attribute]:
    """Integrated gradients from zero embeddings by this project's gradient rules, at `STEPS` Gauss-Legendre points.

    The map at share a of the way is <a e, gradient at a e>: divided by a, it is the integrand.
    """
    from lrp_hooks import LogitDiff, instrument

    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    with instrument(model, "gradient") as lrp:

        def attribute(ids: Tensor, target: int, contrast: int) -> Tensor:
            embeds, total = model.get_input_embeddings()(ids).detach(), 0.0
            for share, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                trace = lrp.trace(inputs_embeds=embeds * float(share))
                relevance = trace.attribute(LogitDiff(target, contrast), absorbed=False).tokens[0]
                total = total + relevance.detach().double() * float(weight / share)
            return total.float().cpu()  # type: ignore[attr-defined,no-any-return]

        yield attribute


OWN = (
    *METHODS,
    Method("gradient rules", partial(by_composite, composite="gradient"), "arXiv 1605.01713"),
    Method("integrated gradient rules", integrated, "arXiv 1703.01365"),
)


def own(name: str) -> Method:
    """The method of that name."""
    return next(method for method in OWN if method.name == name)
