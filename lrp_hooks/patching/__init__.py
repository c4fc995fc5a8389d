"""The only file that assigns to a module: every change is undone by the handle it returns, bit for bit."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from torch import nn

from lrp_hooks.errors import InstrumentedCopyError, UnsupportedModelError
from lrp_hooks.patching.implementation import implementation, remember
from lrp_hooks.patching.masks import make_mask

Forward = Callable[..., Any]
ATTENTION_NAME = "lrp_hooks"


class Handle(Protocol):
    """Undoes one registration. Removing twice is harmless."""

    def remove(self) -> None: ...


class NotCopyable:
    """Refuses to be copied or pickled: a copy of a patched module would keep the original's weights."""

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise InstrumentedCopyError(
            "an instrumented model cannot be copied or pickled: its patched modules would keep the original's weights. "
            "do: call remove() first (or leave the `with` block), copy, and instrument the copy"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self.__deepcopy__(None)


class PatchedForward(NotCopyable):
    """The forward of a patched module: calls ``replacement(original, *args, **kwargs)``.

    It lives in the instance's ``__dict__``, so the class and every other instance are untouched, and module hooks
    (the user's too) fire as before.
    """

    def __init__(self, module: nn.Module, attribute: str, replacement: Forward):
        self.original: Forward = getattr(module, attribute)
        self.replacement = replacement
        self.__signature__ = inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.replacement(self.original, *args, **kwargs)


class AttributeHandle:
    """Puts ``value`` into ``module.__dict__[name]`` and, on removal, what was there before, or nothing."""

    def __init__(self, module: nn.Module, name: str, value: Any):
        self._module, self._name = module, name
        self._had = name in module.__dict__
        self._before = module.__dict__.get(name)
        self._active = True
        module.__dict__[name] = value

    def remove(self) -> None:
        if not self._active:
            return
        self._active = False
        if self._had:
            self._module.__dict__[self._name] = self._before
        else:
            del self._module.__dict__[self._name]


def replace_forward(module: nn.Module, replacement: Forward, *, outermost: bool = False) -> Handle:
    """Let ``replacement(original, *args, **kwargs)`` compute this instance's forward.

    With accelerate's hooks on the module its inner ``_old_forward`` is replaced, so that weights are on their device
    when the rule runs; ``outermost`` replaces the hooked forward itself (for checkpointing, which must re-load them).
    """
    attribute = "_old_forward" if hasattr(module, "_hf_hook") and not outermost else "forward"
    return AttributeHandle(module, attribute, PatchedForward(module, attribute, replacement))


def run_eagerly(model: nn.Module) -> list[Handle]:
    """Switch compilation off while the model is instrumented: compiled code sees neither hooks nor new forwards.

    Covers ``module.compile()`` and ``module.forward = torch.compile(module.forward)``, on any module of the model.
    """
    handles: list[Handle] = []
    for module in model.modules():
        if module._compiled_call_impl is not None:
            handles.append(AttributeHandle(module, "_compiled_call_impl", None))
        plain = getattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable", None)
        if plain is not None:
            handles.append(AttributeHandle(module, "forward", plain))
    return handles


@contextmanager
def loaded(module: nn.Module) -> Iterator[nn.Module]:
    """The module with its weights in place, also when accelerate keeps them offloaded between calls."""
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None:
        yield module
        return
    hook.pre_forward(module)
    try:
        yield module
    finally:
        hook.post_forward(module, None)


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate fetches some weights for each call and drops them after it."""
    hooks: list[Any] = [getattr(module, "_hf_hook", None) for module in model.modules()]
    return any(getattr(hook, "offload", False) for hook in hooks)


def is_patched(module: nn.Module) -> bool:
    """Whether this instance carries a replaced forward or a redirected attention of this package."""
    entries = module.__dict__
    config = entries.get("config")
    return (
        isinstance(entries.get("forward"), PatchedForward)
        or isinstance(entries.get("_old_forward"), PatchedForward)
        or (config is not None and "_lrp_hooks_call" in vars(config))
    )


def unwrapped_forward(module: nn.Module) -> Any:
    """The plain function behind the class's forward, below decorators (checkpointing, output capturing)."""
    return inspect.unwrap(type(module).forward)


def redirect_attention(module: nn.Module, replacement: Forward) -> Handle:
    """Let ``replacement(base, module, q, k, v, mask, **kwargs)`` compute this instance's attention function.

    ``base`` is the function that the model would have called (eager, sdpa, flex, flash as the user set it). The module
    gets a shallow copy of its config, since models built from one config share the object; `transformers` reads
    ``module.config._attn_implementation`` at call time.
    """
    config = _own_config(module)
    base = _base_attention(module, implementation(config))
    config._lrp_hooks_call = _AttentionCall(base, replacement)
    return AttributeHandle(module, "config", config)


def redirect_masks(module: nn.Module) -> list[Handle]:
    """Keep large sdpa masks that this module makes for its blocks as intervals (`lrp_hooks.patching.masks`)."""
    makes = any(
        getattr(value, "__module__", "") == "transformers.masking_utils"
        for value in unwrapped_forward(module).__globals__.values()
    )
    config: Any = getattr(module, "config", None)
    if not makes or getattr(config, "_attn_implementation", None) != "sdpa":
        return []
    return [AttributeHandle(module, "config", _own_config(module))]


def _own_config(module: nn.Module) -> Any:
    """A copy of the module's config that sends its attention and masks here, and remembers what they were."""
    _register_attention()
    config: Any = copy.copy(module.config)
    remember(config)
    config._attn_implementation_internal = ATTENTION_NAME
    return config


class _AttentionCall(PatchedForward):
    def __init__(self, base: Forward, replacement: Forward):
        self.original = base
        self.replacement = replacement


def _base_attention(module: nn.Module, name: str) -> Forward:
    names = unwrapped_forward(module).__globals__
    interface = names.get("ALL_ATTENTION_FUNCTIONS")
    if name != "eager" and interface is not None and name in interface:
        base: Forward = interface[name]
        return base
    eager = names.get("eager_attention_forward")
    if eager is None:
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} has no attention function for attn_implementation={name!r}. "
            'do: load the model with attn_implementation="sdpa"'
        )
    fallback: Forward = eager
    return fallback


def _dispatch_attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    config: Any = module.config
    return config._lrp_hooks_call(module, *args, **kwargs)


def _dispatch_mask(*, config: Any, **options: Any) -> Any:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = implementation(config)
    return make_mask(ALL_MASK_ATTENTION_FUNCTIONS[name], name, {"config": config, **options})


def _register_attention() -> None:
    """Enter our name in transformers' two tables. Without the mask table padding would be dropped silently."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, _dispatch_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _dispatch_mask)
