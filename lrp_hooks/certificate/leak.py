"""Where the ledger breaks: what every module takes in, gives out and books, and the first that does not balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lrp_hooks.ops import relevance_sum
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.taps import tap
from lrp_hooks.sites import Role
from lrp_hooks.targets import Target

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation


class Balance:
    """Relevance that enters and leaves modules, in logits."""

    def __init__(self) -> None:
        self.given: dict[str, float] = defaultdict(float)
        self.received: dict[str, float] = defaultdict(float)
        self.order: list[str] = []

    def tapped(self, value: Any, table: dict[str, float], path: str) -> Any:
        """Every tensor that carries relevance, inside tuples too, reports into ``table``."""
        if isinstance(value, tuple):
            return tuple(self.tapped(part, table, path) for part in value)
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value

        def store(x: Tensor, grad: Tensor) -> None:
            table[path] += float(relevance_sum(x, grad).double().sum())

        return tap(value, store)


def first_leak(lrp: Instrumentation, inputs: dict[str, Any], target: Target, limit: float) -> str | None:
    """Path of the first innermost module, in the order of the forward, that keeps relevance which nothing books.

    Args:
        limit: relative to the largest sum |R| of a residual point.
    """
    balance, paths = Balance(), _paths(lrp)
    with lrp.checkpointing.using(False), _weighing(lrp.model, paths, balance):
        relevance = lrp.trace(**inputs).attribute(target)
    record = lrp.tape.last
    assert record is not None
    scale = float(relevance.layers.abs().sum(2).max())
    weighed = [path for path in balance.order if path in balance.given]  # relevance ends at an embedding
    leaking = [path for path in weighed if abs(_kept(lrp, balance, record, path)) > limit * scale]
    for path in leaking:
        if not any(other.startswith(path + ".") for other in leaking):
            return path
    return None


def _kept(lrp: Instrumentation, balance: Balance, record: ForwardRecord, path: str) -> float:
    """What enters a module from above, less what leaves it downwards and what is booked inside."""
    done = record.latest
    assert done is not None
    inside = sum(float(share.sum()) for name, share in done.biases.items() if _within(name, path))
    for site in lrp.sites:
        if site.role is Role.ATTENTION and site.block in done.attention and _within(site.path, path):
            inside += float(done.attention[site.block].sum())
    # the seed is scaled as it enters the head
    above = 1.0 if lrp.model.get_submodule(path) is lrp.skeleton.head else record.seed_scale
    return balance.received[path] / above - balance.given[path] / record.seed_scale - inside


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


def _paths(lrp: Instrumentation) -> dict[str, nn.Module]:
    """Modules that may leak: all that run inside blocks, and those above them."""
    named = dict(lrp.model.named_modules())
    first = lrp.skeleton.blocks[0][0]
    holding = {first.rsplit(".", end)[0] for end in range(1, first.count(".") + 1)}
    return {path: module for path, module in named.items() if path and path not in holding}


@contextmanager
def _weighing(model: nn.Module, paths: dict[str, nn.Module], balance: Balance) -> Iterator[None]:
    """Taps on everything that goes in and out; ``received`` from above is known at outputs, ``given`` at inputs."""

    def enter(path: str) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any) -> Any:
            given = {name: balance.tapped(value, balance.given, path) for name, value in kwargs.items()}
            return balance.tapped(args, balance.given, path), given

        return hook

    def leave(path: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            balance.order.append(path)
            return balance.tapped(output, balance.received, path) if isinstance(output, (Tensor, tuple)) else None

        return hook

    handles: list[Any] = []
    for path, module in paths.items():
        handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
        handles.append(module.register_forward_hook(leave(path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
