"""The hooks that record: what a forward through an instrumented model leaves for its backward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lrp_hooks.errors import CacheError, InputError, InstrumentError
from lrp_hooks.ops import RuleFunction
from lrp_hooks.patching import Handle
from lrp_hooks.recording.checkpointing import Checkpointing, checkpoint_block
from lrp_hooks.recording.records import HALF_SEED_SCALES, BlockInputs, ForwardRecord
from lrp_hooks.recording.stores import (
    store_bias,
    store_mid,
    store_offset,
    store_point,
    store_received,
    store_tokens,
    store_value,
    tap_around,
)
from lrp_hooks.recording.tape import Tape
from lrp_hooks.recording.taps import tap, tap_constant, tap_in_place
from lrp_hooks.sites import Role, Site
from lrp_hooks.structure.biases import bias_owners
from lrp_hooks.structure.blocks import first_tensor
from lrp_hooks.structure.outputs import LOSS_INPUTS
from lrp_hooks.structure.probe import CACHE_NAMES, forward_parameters, without_cache
from lrp_hooks.structure.skeleton import Skeleton

Keep = Callable[[Handle], None]
"""Takes a handle, to be removed when the instrumentation is."""


class Recorder:
    """Registers taps on embedding, residual points, constants and logits of one model; they report to its tape."""

    def __init__(self, model: nn.Module, skeleton: Skeleton, tape: Tape, checkpointing: Checkpointing):
        self.model, self.skeleton, self.tape, self.checkpointing = model, skeleton, tape, checkpointing
        self._modules = tuple(model.modules())  # walking the tree takes an eighth of a short forward

    def open(self, keep: Keep) -> None:
        """Opens a record for each forward. Before the rules: it is open while every other hook runs."""
        keep(_handle(self.model.register_forward_pre_hook(self._begin, with_kwargs=True)))

    def register(self, sites: Sequence[Site], keep: Keep) -> None:
        """Everything that is recorded inside a forward, and the end of it. After the rules."""
        streams = self.skeleton.streams
        for embedding in {id(stream.embedding): stream.embedding for stream in streams}.values():
            keep(_handle(embedding.register_forward_hook(self._on_embedding)))
        for stream in streams:
            self._register_points(stream, keep)
        self._register_constants(sites, keep)
        # after the head's bias, whose share is of the scaled seed like all others
        if self.skeleton.head is not None:
            keep(_handle(self.skeleton.head.register_forward_hook(self._on_logits)))
        else:
            keep(_handle(self.model.register_forward_hook(self._on_output)))
        self._register_stacks(keep)
        keep(_handle(self.model.register_forward_hook(self._end, always_call=True)))

    def _register_stacks(self, keep: Keep) -> None:
        """Of an encoder-decoder model: what runs inside the encoder reports to a record of its own."""
        encoder = self.skeleton.encoder
        if encoder is None or encoder.stack is None or self.skeleton.stack is None:
            return
        keep(_handle(self.skeleton.stack.register_forward_pre_hook(self._enter_decoder, with_kwargs=True)))
        keep(_handle(encoder.stack.register_forward_pre_hook(self._enter_encoder, with_kwargs=True)))
        keep(_handle(encoder.stack.register_forward_hook(self._leave_encoder)))

    def _register_points(self, stream: Skeleton, keep: Keep) -> None:
        for index, (_, block) in enumerate(stream.blocks):
            keep(_handle(block.register_forward_pre_hook(partial(self._on_block_input, index), with_kwargs=True)))
            keep(checkpoint_block(block, self.checkpointing, self.tape))
            keep(_handle(block.register_forward_hook(partial(self._on_block, index))))
            child = stream.mid[index]
            if child is not None:
                keep(_handle(child.register_forward_pre_hook(partial(self._on_mid, index))))

    def _register_constants(self, sites: Sequence[Site], keep: Keep) -> None:
        by_path = {site.path: site for site in sites}
        owners = frozenset(bias_owners(self.model))
        for path, module in self.model.named_modules():
            site = by_path.get(path)
            store: Callable[[ForwardRecord], Callable[[Tensor], None]]
            if site is not None and site.role is Role.ACTIVATION and site.spec.at_zero:
                store = partial(store_offset, path=path, offset=float(site.spec.at_zero))
            elif path in owners:
                store = partial(store_bias, path=path, module=module)
            else:
                continue
            keep(_handle(module.register_forward_hook(partial(self._on_constant, store))))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return None
        if any(module.training for module in self._modules):
            raise InstrumentError("the model was put in training mode while instrumented. do: model.eval()")
        kwargs = _named(module, args, kwargs)
        self._check(kwargs)
        kwargs = {**kwargs, **without_cache(self.model)}
        kwargs.update(dict.fromkeys(CACHE_NAMES & kwargs.keys()))
        if self.tape.record is None:  # a trace brings its own record
            self.tape.record = ForwardRecord(tape=self.tape)
        if self.skeleton.encoder is None:  # else: each stack's own inputs
            kwargs = self._describe(self.tape.record, kwargs)
        return (), kwargs

    def _check(self, kwargs: dict[str, Any]) -> None:
        for name in CACHE_NAMES & kwargs.keys():
            cache = kwargs[name]
            if cache is not None and (not hasattr(cache, "get_seq_length") or cache.get_seq_length() > 0):
                raise CacheError(
                    "a filled key/value cache hides the tokens it holds from the gradient. "
                    f"do: pass the whole sequence without {name} (generate() under no_grad is unaffected)"
                )
        given = [name for name in LOSS_INPUTS if kwargs.get(name) is not None]
        if given and self.skeleton.head is None:
            raise InputError(
                f"{', '.join(given)}: a loss made inside the model bypasses the logits that are explained. "
                "do: leave it out and compute what you want explained from the logits"
            )
        if self.skeleton.encoder is not None and kwargs.get("encoder_outputs") is not None:
            raise InputError(
                "encoder_outputs hide the encoder's tokens from the gradient. do: pass its input_ids and attention_mask"
            )

    def _describe(self, record: ForwardRecord, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Note whose tokens these are; the keywords with tapped embeddings."""
        ids, embeds, mask = (kwargs.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
        given = ids if isinstance(ids, Tensor) else embeds
        if isinstance(given, Tensor) and record.attention_mask is None:
            real = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
            record.input_ids = ids
            self._begin_stream(record, given.shape[:2], real, given.device)
        return {**kwargs, "inputs_embeds": self._tapped_embedding(embeds)} if isinstance(embeds, Tensor) else kwargs

    def _begin_stream(
        self, record: ForwardRecord, shape: tuple[int, ...], mask: Tensor | None, device: torch.device
    ) -> None:
        batch, length = shape
        record.attention_mask = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask
        if record is self.tape.record:  # an encoder's record shares its decoder's
            dtype = next(self.model.parameters()).dtype
            record.seed_scale = HALF_SEED_SCALES[0] if dtype == torch.float16 else 1.0
        self.checkpointing.decide(batch, length, device)

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = self.tape.record
        if record is None or not torch.is_grad_enabled():
            return None
        return (), self._describe(record, _named(module, args, kwargs))

    def _enter_encoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = self.tape.record
        if record is None or not torch.is_grad_enabled():
            return None
        if record.encoder is None:
            record.encoder = ForwardRecord(asked=record.asked, decoder=record)
        self.tape.record = record.encoder
        return (), self._describe(record.encoder, _named(module, args, kwargs))

    def _leave_encoder(self, module: nn.Module, args: Any, output: Any) -> Any:
        record = self.tape.record
        if record is None or record.decoder is None or not torch.is_grad_enabled():
            return None
        self.tape.record = record.decoder
        return _with_states(output, lambda states: tap(states, store_received(record)))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        record = self.tape.record
        if record is not None:
            record.raw_logits = None
            self.tape.record = None
            self.tape.forwards += 1

    def _on_embedding(self, module: nn.Module, args: Any, output: Any) -> Any:
        embeds = first_tensor(output)
        if embeds is None or not torch.is_grad_enabled():
            return None
        tapped = self._tapped_embedding(embeds)
        return tapped if isinstance(output, Tensor) else (tapped, *output[1:])

    def _tapped_embedding(self, embeds: Tensor) -> Tensor:
        leaf = embeds if embeds.requires_grad else embeds.detach().requires_grad_()
        record = self.tape.record
        # a copy: some families add positions in place, which a view made by a custom function forbids
        return leaf if record is None else tap(leaf, store_tokens(record)).clone()

    def _on_block_input(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = self.tape.record
        if record is None or not torch.is_grad_enabled():
            return None
        if not self.skeleton.is_language_model:  # those were told not to use one
            args, kwargs = tuple(map(_no_cache, args)), {name: _no_cache(value) for name, value in kwargs.items()}
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        around = partial(tap_around, record, index)
        args, kwargs = (
            (*args[:1], *map(around, args[1:])),
            {name: around(rest.get(name, v)) if name in rest else v for name, v in kwargs.items()},
        )
        record.block_inputs[index] = BlockInputs(args[1:], {name: kwargs[name] for name in rest}, by_name=not args)
        hidden = args[0] if args else kwargs["hidden_states"]
        if index == 0:
            if record.attention_mask is None:  # of an image, only the blocks know how many tokens there are
                self._begin_stream(record, hidden.shape[:2], None, hidden.device)
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
        record.raw_logits = self._explained(output, record)
        return record.raw_logits

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        record = self.tape.record
        if record is None or not torch.is_grad_enabled():
            return None
        return self.skeleton.output.changed(output, lambda logits: self._explained(logits, record))

    def _explained(self, logits: Tensor, record: ForwardRecord) -> Tensor:
        scaled: Tensor = _ScaleSeed.call(logits, record)
        return tap(scaled, store_value(record))


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


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional arguments of a module's forward by their names."""
    return {**dict(zip(forward_parameters(module), args, strict=False)), **kwargs}


def _no_cache(value: Any) -> Any:
    """None in the place of a key/value cache: blocks that are run again would find their own keys in it."""
    return None if hasattr(value, "get_seq_length") else value


def _with_states(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A stack's output with other last hidden states."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    output.last_hidden_state = change(output.last_hidden_state)
    return output


def _handle(hook: Any) -> Handle:
    return cast(Handle, hook)
