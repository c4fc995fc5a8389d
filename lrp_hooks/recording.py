"""The hooks that record: what a forward through an instrumented model leaves for its backward passes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lrp_hooks.checkpointing import Checkpointing, checkpoint_block
from lrp_hooks.claiming import biases
from lrp_hooks.errors import CacheError, InstrumentError
from lrp_hooks.ops import RuleFunction
from lrp_hooks.patching import Handle
from lrp_hooks.sites import Role, Site
from lrp_hooks.structure import Skeleton, first_tensor
from lrp_hooks.tape import (
    BlockInputs,
    ForwardRecord,
    Tape,
    store_bias,
    store_mid,
    store_offset,
    store_point,
    store_tokens,
    store_value,
    tap,
    tap_around,
    tap_constant,
    tap_in_place,
)
from lrp_hooks.trace import HALF_SEED_SCALES

Keep = Callable[[Handle], None]
"""Takes a handle, to be removed when the instrumentation is."""


class Recorder:
    """Registers taps on embedding, residual points, constants and logits of one model; they report to its tape."""

    def __init__(self, model: nn.Module, skeleton: Skeleton, tape: Tape, checkpointing: Checkpointing):
        self.model, self.skeleton, self.tape, self.checkpointing = model, skeleton, tape, checkpointing

    def open(self, keep: Keep) -> None:
        """Opens a record for each forward. Before the rules: it is open while every other hook runs."""
        keep(_handle(self.model.register_forward_pre_hook(self._begin, with_kwargs=True)))

    def register(self, sites: Sequence[Site], keep: Keep) -> None:
        """Everything that is recorded inside a forward, and the end of it. After the rules."""
        keep(_handle(self.skeleton.embedding.register_forward_hook(self._on_embedding)))
        keep(_handle(self.skeleton.head.register_forward_hook(self._on_logits)))
        self._register_points(keep)
        self._register_constants(sites, keep)
        keep(_handle(self.model.register_forward_hook(self._end, always_call=True)))

    def _register_points(self, keep: Keep) -> None:
        for index, (_, block) in enumerate(self.skeleton.blocks):
            keep(_handle(block.register_forward_pre_hook(partial(self._on_block_input, index), with_kwargs=True)))
            keep(checkpoint_block(block, self.checkpointing, self.tape))
            keep(_handle(block.register_forward_hook(partial(self._on_block, index))))
            child = self.skeleton.mid[index]
            if child is not None:
                keep(_handle(child.register_forward_pre_hook(partial(self._on_mid, index))))

    def _register_constants(self, sites: Sequence[Site], keep: Keep) -> None:
        by_path = {site.path: site for site in sites}
        # a bias that a module shares with one inside it (BERT's head and its decoder) is the inner one's
        owners = {id(bias): path for path, bias in biases(self.model)}
        for path, module in self.model.named_modules():
            site = by_path.get(path)
            store: Callable[[ForwardRecord], Callable[[Tensor], None]]
            if site is not None and site.role is Role.ACTIVATION and site.spec.at_zero:
                store = partial(store_offset, path=path, offset=float(site.spec.at_zero))
            elif owners.get(id(getattr(module, "bias", None))) == path:
                store = partial(store_bias, path=path, module=module)
            else:
                continue
            keep(_handle(module.register_forward_hook(partial(self._on_constant, store))))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return None
        if any(module.training for module in self.model.modules()):
            raise InstrumentError("the model was put in training mode while instrumented. do: model.eval()")
        kwargs = self._named(args, kwargs)
        cache = kwargs.get("past_key_values")
        if cache is not None and (not hasattr(cache, "get_seq_length") or cache.get_seq_length() > 0):
            raise CacheError(
                "a filled key/value cache hides the tokens it holds from the gradient. "
                "do: pass the whole sequence without past_key_values (generate() under no_grad is unaffected)"
            )
        kwargs = (
            {**kwargs, "use_cache": False, "past_key_values": None}
            if cache is not None
            else {**kwargs, "use_cache": False}
        )
        if self.tape.record is None:  # a trace brings its own record
            self.tape.record = ForwardRecord(tape=self.tape)
        record = self.tape.record
        ids = kwargs.get("input_ids")
        embeds = kwargs.get("inputs_embeds")
        self._describe(record, ids if isinstance(ids, Tensor) else None, embeds, kwargs.get("attention_mask"))
        if isinstance(embeds, Tensor):
            kwargs["inputs_embeds"] = self._tapped_embedding(embeds)
        return (), kwargs

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Positional arguments of the model's forward by their names."""
        names = [name for name in inspect.signature(type(self.model).forward).parameters if name != "self"]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _describe(self, record: ForwardRecord, ids: Tensor | None, embeds: Tensor | None, mask: Any) -> None:
        given = ids if ids is not None else embeds
        if given is None or record.attention_mask is not None:
            return
        batch, length = given.shape[:2]
        padded = isinstance(mask, Tensor) and mask.dim() == 2
        record.attention_mask = (
            mask.bool() if padded else torch.ones(batch, length, dtype=torch.bool, device=given.device)
        )
        record.input_ids = ids
        dtype = next(self.model.parameters()).dtype
        record.seed_scale = HALF_SEED_SCALES[0] if dtype == torch.float16 else 1.0
        self.checkpointing.decide(batch, length, given.device)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        record = self.tape.record
        if record is not None:
            record.raw_logits = None
            self.tape.record = None
            self.tape.forwards += 1

    def _on_embedding(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return self._tapped_embedding(output) if torch.is_grad_enabled() else None

    def _tapped_embedding(self, embeds: Tensor) -> Tensor:
        leaf = embeds if embeds.requires_grad else embeds.detach().requires_grad_()
        record = self.tape.record
        # a copy: some families add positions in place, which a view made by a custom function forbids
        return leaf if record is None else tap(leaf, store_tokens(record)).clone()

    def _on_block_input(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = self.tape.record
        if record is None or not torch.is_grad_enabled():
            return None
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        around = partial(tap_around, record, index)
        args, kwargs = (
            (*args[:1], *map(around, args[1:])),
            {name: around(rest.get(name, v)) if name in rest else v for name, v in kwargs.items()},
        )
        record.block_inputs[index] = BlockInputs(args[1:], {name: kwargs[name] for name in rest}, by_name=not args)
        hidden = args[0] if args else kwargs["hidden_states"]
        if index == 0:
            hidden = tap(hidden, store_point(record, 0))
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def _on_block(self, index: int, module: nn.Module, args: Any, output: Any) -> Any:
        record = self.tape.record
        hidden = first_tensor(output)
        if record is None or hidden is None or not torch.is_grad_enabled():
            return None
        tapped = tap(hidden, store_point(record, index + 1))
        return tapped if isinstance(output, Tensor) else (tapped, *output[1:])

    def _on_mid(self, index: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        record = self.tape.record
        if record is None or not args or not torch.is_grad_enabled():
            return
        hidden = args[0]
        if hidden.requires_grad and not hidden.is_leaf and not hidden._is_view():
            tap_in_place(hidden, store_mid(record, index))

    def _on_constant(
        self,
        store: Callable[[ForwardRecord], Callable[[Tensor], None]],
        module: nn.Module,
        args: Any,
        output: Any,
    ) -> Any:
        record = self.tape.record
        if record is None or not isinstance(output, Tensor) or not (torch.is_grad_enabled() and output.requires_grad):
            return None
        return tap_constant(output, store(record))

    def _on_logits(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        record = self.tape.record
        if record is None or not torch.is_grad_enabled():
            return None
        scaled: Tensor = _ScaleSeed.call(output, record)
        record.raw_logits = tap(scaled, store_value(record))
        return record.raw_logits


class _ScaleSeed(RuleFunction):
    """Identity on the logits; multiplies the gradient that enters the model (float16 would underflow)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, record: ForwardRecord) -> Tensor:
        ctx.record = record
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        scale = ctx.record.seed_scale
        return grads[0] if scale == 1.0 else grads[0] * scale, None


def _handle(hook: Any) -> Handle:
    return cast(Handle, hook)
