"""Relevance of an untouched model, node by node through its own autograd graph: what entries are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from lrp_hooks.certificate.nodes import OF_ARGUMENT, RULES, NodeRelevance, UnknownNodeError
from lrp_hooks.detection.walk import operation_of
from lrp_hooks.recording.stores import as_tokens
from lrp_hooks.structure.blocks import first_tensor
from lrp_hooks.structure.probe import without_cache
from lrp_hooks.structure.skeleton import Skeleton


@dataclass
class Stream:
    """Tensors of one stream of one forward, as the model made them: the embeddings, and each residual point."""

    leaf: Tensor | None = None
    points: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceScores:
    """Relevance of tokens [B, T] and residual points [B, L+1, T], in logits, in the model's dtype or better.

    Attributes:
        encoder: the same for the encoder's stream of an encoder-decoder model.
    """

    tokens: Tensor
    layers: Tensor
    encoder: ReferenceScores | None = None


def reference_relevance(
    model: nn.Module,
    skeleton: Skeleton,
    inputs: dict[str, Any],
    explain: Callable[[Tensor], Tensor],
    columns: Tensor | None,
    composite: str,
) -> ReferenceScores:
    """Relevance of ``explain(logits)`` by the rules of `nodes`, to first order in the logits.

    Args:
        model: not instrumented.
        explain: to [B], of the logits [B, V] at ``columns`` [B], or of all logits where those have no columns.

    Raises:
        UnknownNodeError: the forward holds a node without a rule, or the composite has no reference.
    """
    if composite not in RULES:
        raise UnknownNodeError(f"composite {composite!r}")
    noting = _Arguments()
    with _watching(model, skeleton) as (streams, raw), _written_out(model), torch.enable_grad(), noting:
        logits = skeleton.output.of(model(**inputs, **without_cache(model)))
    if any(stream.leaf is None for stream in streams):
        raise UnknownNodeError("a model that does not call its input embedding")
    explained = raw[0] if skeleton.softcap is not None and raw else logits
    wanted = {
        (place, key): x
        for place, stream in enumerate(streams)
        for key, x in ((-1, stream.leaf), *stream.points.items())
        if x is not None
    }
    leaves = {id(stream.leaf) for stream in streams}
    rules = NodeRelevance(RULES[composite], {}, noting.of_node)
    grads = _backward(explained, _seed(logits, explain, columns), leaves, wanted, rules)
    parts = [_collected(place, wanted, grads) for place in range(len(streams))]
    return parts[0] if len(parts) == 1 else replace(parts[0], encoder=parts[1])


Place = tuple[int, int]
"""Stream and residual point; -1 for the embeddings."""


def _collected(place: int, wanted: dict[Place, Tensor], grads: dict[Place, Tensor]) -> ReferenceScores:
    sums = {key: _scores(x, grads.get((at, key))) for (at, key), x in wanted.items() if at == place}
    return ReferenceScores(sums[-1], torch.stack([sums[key] for key in sorted(sums) if key >= 0], 1))


def _seed(logits: Tensor, explain: Callable[[Tensor], Tensor], columns: Tensor | None) -> Tensor:
    """d explain / d logits, for logits [B, T, V] with columns [B], or of any shape without."""
    rows = logits.detach()
    if columns is None:
        return _gradient(explain, rows)
    seed, batch = torch.zeros_like(rows), torch.arange(len(rows), device=rows.device)
    seed[batch, columns] = _gradient(explain, rows[batch, columns])
    return seed


def _gradient(explain: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = rows.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(explain(leaf).sum(), leaf)
    return gradient


def _scores(x: Tensor, grad: Tensor | None) -> Tensor:
    x = as_tokens(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    scores: Tensor = torch.zeros_like(x, dtype=wide) if grad is None else x.detach().to(wide) * as_tokens(grad).to(wide)
    return scores.sum(-1)


@contextmanager
def _watching(model: nn.Module, skeleton: Skeleton) -> Iterator[tuple[list[Stream], list[Tensor]]]:
    """The streams of one forward, the decoder's first, and the output of the projection to the vocabulary."""
    parts = skeleton.streams
    streams, raw = [Stream() for _ in parts], list[Tensor]()
    running: list[int] = []

    def embed(_module: Any, _args: Any, output: Tensor) -> Tensor:
        stream = streams[running[-1] if running else 0]
        if stream.leaf is not None:
            return output
        stream.leaf = output.detach().requires_grad_()
        return stream.leaf.clone()

    def finish(*_: Any) -> None:
        running.pop()

    def enter(stream: Stream) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any) -> Any:
            # a copy: what enters the first block, without what other parts make of the embeddings
            stream.points[0] = first = (args[0] if args else kwargs["hidden_states"]).clone()
            return ((first, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": first})

        return hook

    def leave(stream: Stream, point: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = first_tensor(output)
            assert hidden is not None
            stream.points[point] = hidden

        return hook

    handles: list[Any] = []
    for place, (part, stream) in enumerate(zip(parts, streams, strict=True)):
        if part.stack is not None:
            handles.append(part.stack.register_forward_pre_hook(lambda *_, place=place: running.append(place)))
            handles.append(part.stack.register_forward_hook(finish))
        handles.append(part.blocks[0][1].register_forward_pre_hook(enter(stream), with_kwargs=True))
        handles += [b.register_forward_hook(leave(stream, i + 1)) for i, (_, b) in enumerate(part.blocks)]
    for embedding in dict.fromkeys(part.embedding for part in parts):
        handles.append(embedding.register_forward_hook(embed))
    if skeleton.head is not None:
        handles.append(skeleton.head.register_forward_hook(lambda _m, _a, output: raw.append(output)))
    try:
        yield streams, raw
    finally:
        for handle in handles:
            handle.remove()


class _Arguments(TorchFunctionMode):
    """What tanh and sigmoid are given while the forward runs; fused kernels that call them are not seen.

    Attributes:
        of_node: by the autograd node of the result.
    """

    NAMES = frozenset({"tanh", "tanh_", "sigmoid", "sigmoid_", "expit", "special_expit"})

    def __init__(self) -> None:
        super().__init__()
        self.of_node: dict[Any, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in self.NAMES:
            return func(*args, **kwargs)
        x = (args[0] if args else kwargs["input"]).detach().clone()  # what follows may change it in place
        out = func(*args, **kwargs)
        if out.grad_fn is not None and operation_of(out.grad_fn) in OF_ARGUMENT:
            self.of_node[out.grad_fn] = x
        return out


@contextmanager
def _written_out(model: Any) -> Iterator[None]:
    """Attention by products and a softmax, never by one fused node."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    before = [(config, config._attn_implementation) for config in configs if hasattr(config, "_attn_implementation")]
    for config, implementation in before:
        if implementation not in ("eager", "sdpa", None):
            config._attn_implementation = "eager"
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def _backward(
    output: Tensor, seed: Tensor, leaves: set[int], wanted: dict[Place, Tensor], rules: NodeRelevance
) -> dict[Place, Tensor]:
    """Gradients at the wanted tensors, through every node that carries relevance, each once, after all above it.

    ``leaves``: ids of the embeddings, at which relevance ends.
    """
    root = output.grad_fn
    assert root is not None
    above = _order(root, leaves, rules)
    places = {(x.grad_fn, x.output_nr): key for key, x in wanted.items() if x.grad_fn is not None}
    ends = {id(x): key for key, x in wanted.items() if id(x) in leaves}
    found: dict[Place, Tensor] = {}
    arrived: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    arrived[root][output.output_nr] = seed
    ready: list[Any] = [root]
    while ready:
        node = ready.pop()
        grads = arrived.pop(node, {})
        for index, grad in grads.items():
            if (node, index) in places:
                found[places[node, index]] = grad
        end = ends.get(id(getattr(node, "variable", None)))
        if end is not None:
            found[end] = grads[0]
            continue
        below = rules.back(node, tuple(grads.get(i) for i in range(len(node._input_metadata)))) if grads else ()
        for number, (child, index) in enumerate(node.next_functions):
            if child is None or not rules.carrying.get(child, False):
                continue
            back = below[number] if number < len(below) else None
            if back is not None:
                back = _fitted(back, child._input_metadata[index])
                arrived[child][index] = arrived[child][index] + back if index in arrived[child] else back
            above[child] -= 1
            if not above[child]:
                ready.append(child)
    return found


def _fitted(grad: Tensor, of: Any) -> Tensor:
    """Summed over what was broadcast and in the value's dtype: the engine does this between nodes."""
    return grad.sum_to_size(of.shape).to(of.dtype)


def _order(root: Any, leaves: set[int], rules: NodeRelevance) -> dict[Any, int]:
    """Fill ``rules.carrying``; how many carrying edges lead to each node that carries relevance."""
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if node in rules.carrying:
            continue
        if done:
            rules.carrying[node] = rules.is_carrying(node, id(getattr(node, "variable", None)) in leaves)
            continue
        stack.append((node, True))
        stack += [(child, False) for child, _ in node.next_functions if child is not None]
    above: dict[Any, int] = defaultdict(int)
    seen, stack_ = {root}, [root]
    while stack_:
        node = stack_.pop()
        for child, _ in node.next_functions:
            if child is None or not rules.carrying[child]:
                continue
            above[child] += 1
            if child not in seen:
                seen.add(child)
                stack_.append(child)
    return above
