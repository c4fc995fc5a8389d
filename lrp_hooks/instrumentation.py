"""`instrument(model)`: patch one model instance in place so that its gradients are LRP's; undo it exactly."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from lrp_hooks.attribute import build_relevance
from lrp_hooks.batch import prepare_inputs
from lrp_hooks.checkpointing import Checkpointing, Mode, SavedBytes, checkpoint_block
from lrp_hooks.claiming import biases, check_ledger, claim_inline
from lrp_hooks.composites import Composite, resolve
from lrp_hooks.detect import Detection, detect
from lrp_hooks.errors import (
    AlreadyInstrumentedError,
    CacheError,
    GradientError,
    InputError,
    InstrumentError,
    NonFiniteError,
    RemovedError,
    UnclaimedModuleError,
    UnsupportedModelError,
    first_line,
)
from lrp_hooks.graph.collect import BlockKnowledge
from lrp_hooks.ops import RuleFunction
from lrp_hooks.patching import Handle, NotCopyable, is_patched
from lrp_hooks.relevance import Relevance
from lrp_hooks.report import Report, make_report
from lrp_hooks.sites import Role, Site
from lrp_hooks.structure import Skeleton, embedding_device, find_skeleton, first_tensor, probe_ids
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
from lrp_hooks.trace import HALF_SEED_SCALES, Trace
from lrp_hooks.walk import ModuleClock, Unclaimed, unclaimed

logger = logging.getLogger(__name__)

Unknown = Literal["error", "gradient"]


def instrument(
    model: nn.Module,
    composite: str | Composite = "attnlrp",
    *,
    unknown: Unknown = "error",
    checkpoint: Mode = "auto",
    max_memory: int | None = None,
) -> Instrumentation:
    """Patch ``model`` in place so that its gradients follow LRP's rules. Values stay what they are.

    Only this instance changes: not its class, not its config, not another model built from the same config. While it
    is instrumented its parameters are frozen (``requires_grad=False``) and it is in eval mode.

    Args:
        model: a transformers causal language model.
        composite: "attnlrp" (arXiv 2402.05602), "cp-lrp", "gradient", or a `Composite`.
        unknown: what to do with non-linear parts that no rule claims: raise, or let their ordinary gradient through
            (``report()`` lists them).
        checkpoint: recompute blocks in the backward pass: True, False, or "auto" (when activations would not fit).
        max_memory: bytes that activations may take on top of the model; decides about checkpointing and the size of
            chunks, and refuses prompts that do not fit, with the least that would do. Default: what is free.

    Raises:
        UnclaimedModuleError: a non-linear part that no rule claims.
        UnsupportedModelError: not a causal language model of a kind that is understood.
        AlreadyInstrumentedError: the model carries an instrumentation.
        NonFiniteError: weights or logits are NaN or infinite.
        InstrumentError: an unknown option. In every case the model is left untouched.
    """
    return Instrumentation(model, resolve(composite), unknown=unknown, checkpoint=checkpoint, max_memory=max_memory)


class Instrumentation(NotCopyable):
    """An instrumented model: its sites, its records, and the way back. Also a context manager.

    Attributes:
        model: the instrumented model.
        composite: the rule table in force.
        sites: every module with a role, and its probe's error.
        skeleton: embedding, blocks, head.
        accepted: non-linear operations without a rule, let through with ``unknown="gradient"``.
        value_error: largest difference of the instrumented to the untouched logits on the probe; 0.0 = bit for bit.
    """

    def __init__(
        self, model: nn.Module, composite: Composite, *, unknown: Unknown, checkpoint: Mode, max_memory: int | None
    ):
        if unknown not in ("error", "gradient"):
            raise InstrumentError(f'unknown={unknown!r} is not an option. choices: "error", "gradient"')
        self.checkpointing = Checkpointing(checkpoint, max_memory)
        self.model, self.composite, self.tape = model, composite, Tape()
        self.block_knowledge = BlockKnowledge()
        _check_model(model)
        self.detection: Detection = detect(model)
        attention = [p for p, f in self.detection.findings.items() if f.role is Role.ATTENTION]
        self._flags = [(m, m.training) for m in model.modules()]
        # by name: accelerate puts new placeholder parameters into offloaded modules after every forward
        self._frozen = [
            (module, name, p.requires_grad)
            for module in model.modules()
            for name, p in module.named_parameters(recurse=False)
        ]
        self._handles: list[Handle] = []
        self._removed = False
        try:
            self._freeze()
            self.skeleton: Skeleton
            self.skeleton, untouched = find_skeleton(model, attention)
            self.sites = self._make_sites()
            self._register()
            self.accepted: list[Unclaimed] = []
            self.value_error = 0.0
            try:
                if composite.is_lrp:
                    self.sites = (*self.sites, *claim_inline(self, self._handles.append))
                self._verify(untouched, unknown)
            except RuntimeError as error:  # autograd forbids something that this family does, e.g. in-place on a tap
                raise UnsupportedModelError(
                    f"{type(model).__name__} does not run with gradients as instrumented: {first_line(error)}"
                ) from error
        except BaseException:
            self.remove()
            raise

    # Life cycle --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._check_active()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Undo everything, bit for bit: forwards, hooks, configs, ``requires_grad``, ``training``. Idempotent."""
        if self._removed:
            return
        self._removed = self.checkpointing.removed = True
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()
        for owner, name, flag in self._frozen:
            owner.get_parameter(name).requires_grad_(flag)
        for module, flag in self._flags:
            module.training = flag
        self.tape.record = self.tape.last = None

    @property
    def removed(self) -> bool:
        return self._removed

    def _check_active(self) -> None:
        if self._removed:
            raise RemovedError("the instrumentation was removed. do: instrument(model) again")

    def _freeze(self) -> None:
        for owner, name, _ in self._frozen:
            owner.get_parameter(name).requires_grad_(False)
        for module, _ in self._flags:
            module.training = False

    # Registration ------------------------------------------------------------------------------------------------

    def _make_sites(self) -> tuple[Site, ...]:
        named = dict(self.model.named_modules())
        sites = [
            Site(path, named[path], found.role, found.spec, self.skeleton.block_of(path), found.error, self.tape)
            for path, found in self.detection.findings.items()
        ]
        if self.skeleton.softcap is not None:
            sites.append(Site("", self.model, Role.FINAL_SOFTCAP, self.skeleton.softcap, None, 0.0, self.tape))
        return tuple(sites)

    def _register(self) -> None:
        # Our hook on the model comes first in line and its record is open while every other hook runs.
        keep = self._handles.append
        keep(_handle(self.model.register_forward_pre_hook(self._begin, with_kwargs=True)))
        for site in self.sites:
            rule = self.composite.rule_for(site)
            if rule is not None:
                keep(rule(site))
        keep(_handle(self.skeleton.embedding.register_forward_hook(self._on_embedding)))
        keep(_handle(self.skeleton.head.register_forward_hook(self._on_logits)))
        self._register_points()
        self._register_biases()
        keep(_handle(self.model.register_forward_hook(self._end, always_call=True)))

    def _register_points(self) -> None:
        keep, blocks = self._handles.append, self.skeleton.blocks
        for index, (_, block) in enumerate(blocks):
            keep(_handle(block.register_forward_pre_hook(partial(self._on_block_input, index), with_kwargs=True)))
            keep(checkpoint_block(block, self.checkpointing, self.tape))
            keep(_handle(block.register_forward_hook(partial(self._on_block, index))))
            child = self.skeleton.mid[index]
            if child is not None:
                keep(_handle(child.register_forward_pre_hook(partial(self._on_mid, index))))

    def _register_biases(self) -> None:
        sites = {site.path: site for site in self.sites}
        # a bias that a module shares with one inside it (BERT's head and its decoder) is the inner one's
        owners = {id(bias): path for path, bias in biases(self.model)}
        for path, module in self.model.named_modules():
            site = sites.get(path)
            store: Callable[[ForwardRecord], Callable[[Tensor], None]]
            if site is not None and site.role is Role.ACTIVATION and site.spec.at_zero:
                store = partial(store_offset, path=path, offset=float(site.spec.at_zero))
            elif owners.get(id(getattr(module, "bias", None))) == path:
                store = partial(store_bias, path=path, module=module)
            else:
                continue
            self._handles.append(_handle(module.register_forward_hook(partial(self._on_constant, store))))

    # Hooks -------------------------------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return None
        if any(m.training for m, _ in self._flags):
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

    # Verification ------------------------------------------------------------------------------------------------

    def _verify(self, untouched: Tensor, unknown: Unknown) -> None:
        """One instrumented forward on the probe: same values, and an autograd graph in which all is claimed."""
        clock, saved = ModuleClock(), SavedBytes(self.model)
        mode, self.checkpointing.mode = self.checkpointing.mode, False
        ids = probe_ids(self.model)
        with torch.enable_grad(), clock.watching(self.model), saved.measuring():
            logits = self.model(input_ids=ids).logits
        self.checkpointing.mode = mode
        self.checkpointing.bytes_per_token = saved.total / ids.numel()
        self.checkpointing.heads_bytes = self._pair_bytes()
        self.checkpointing.stream_bytes = self._stream_bytes()
        self.checkpointing.blocks = len(self.skeleton.blocks)
        self.value_error = float((logits.detach() - untouched).abs().max())
        scale = float(untouched.abs().max())
        if not self.value_error <= 1e-2 * scale:
            raise InstrumentError(
                f"the instrumented model's logits differ by {self.value_error:.2e} (of {scale:.2e}) from the untouched "
                "model's. do: report the model; its explanations would be of another function"
            )
        if self.composite.is_lrp:
            self.accepted = self._claim(unclaimed(logits, clock), unknown)
            if unknown == "error":
                check_ledger(self)
        self.tape.forwards = 0

    def _pair_bytes(self) -> float:
        """Bytes per query-key pair over all blocks: eager attention keeps its weights, the others do not."""
        config: Any = self.model.config
        if config._attn_implementation not in ("eager", None):
            return 0.0
        heads = getattr(config.get_text_config(), "num_attention_heads", 1)
        return 3.0 * heads * len(self.skeleton.blocks) * next(self.model.parameters()).element_size()

    def _stream_bytes(self) -> float:
        config: Any = self.model.config
        weight: Any = self.skeleton.embedding.weight
        size = getattr(config.get_text_config(), "hidden_size", None) or weight.shape[-1]
        return float(size * next(self.model.parameters()).element_size())

    def _claim(self, found: list[Unclaimed], unknown: Unknown) -> list[Unclaimed]:
        plain = [site.path for site in self.sites if self.composite.rule_for(site) is None]
        found = [u for u in found if not any(u.path == p or u.path.startswith(p + ".") for p in plain if p)]
        if not found or unknown == "gradient":
            for entry in dict.fromkeys(found):
                logger.warning("%s in %s has no LRP rule; its ordinary gradient is used", entry.operation, entry.path)
            return found
        first = found[0]
        module = self.model.get_submodule(first.path)
        operations = sorted(
            {u.operation.removesuffix("0").removesuffix("Backward") for u in found if u.path == first.path}
        )
        raise UnclaimedModuleError(
            first.path,
            type(module).__name__,
            self.detection.tried.get(first.path, []),
            f"computes {', '.join(operations)} and no rule claims it",
        )

    # Results -----------------------------------------------------------------------------------------------------

    def trace(self, *, allow_beyond_max: bool = False, **inputs: Any) -> Trace:
        """Run one forward, to be asked any number of questions.

        ``lrp.trace(**tokenizer(prompt, return_tensors="pt"))``. Batches may be padded left or right; missing
        ``position_ids`` are derived from ``attention_mask``. Only the logits that are asked about are computed.

        Args:
            allow_beyond_max: accept prompts longer than ``max_position_embeddings``.
            inputs: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, D], ``attention_mask`` [B, T], and whatever else
                the model's forward takes.

        Raises:
            RemovedError, InputError, ContextLengthError, CacheError, GradientError, NonFiniteError.
        """
        self._check_active()
        if torch.is_inference_mode_enabled():
            raise GradientError("torch.inference_mode() forbids gradients. do: trace outside of it (no_grad is fine)")
        return Trace(self, prepare_inputs(self.model, inputs, allow_beyond_max=allow_beyond_max))

    def trace_continuations(self, prompt: Tensor, target: Tensor, contrast: Tensor) -> Trace:
        """Trace prompt + target and prompt + contrast as two rows, for `SequenceLogProbDiff`. Ids are 1-D tensors."""
        rows = [torch.cat((prompt, span)) for span in (target, contrast)]
        if not len(prompt) or not len(target) or not len(contrast):
            raise InputError("prompt, target and contrast spans must each have at least one token")
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        trace = self.trace(input_ids=ids, attention_mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long())
        trace.prompt_length = len(prompt)
        return trace

    def report(self, relevance: Relevance | None = None) -> Report:
        """Sites, rules and probe errors; with a ``relevance``, also its ledger and what was absorbed where."""
        return make_report(self, relevance)

    def relevance(self) -> Relevance:
        """Relevance of the latest ``.backward()`` through this model.

        Raises:
            RemovedError: after ``remove()``.
            GradientError: no forward with gradients, or no backward pass, has run; or the backward pass went through
                several forwards at once.
        """
        self._check_active()
        record = self.tape.last
        if not self.tape.forwards:
            raise GradientError(
                "nothing was recorded: no forward has run with gradients. "
                "do: call the model outside torch.no_grad() and torch.inference_mode(), then .backward()"
            )
        if record is None:
            raise GradientError("the forward was recorded but no backward pass has run. do: (l_t - l_c).backward()")
        if self.tape.mixed:
            raise GradientError(
                "the backward pass went through several forwards. do: one .backward() per forward, or lrp.trace()"
            )
        relevance = build_relevance(record, self.skeleton, self.composite.name)
        if not torch.isfinite(relevance.layers).all():
            raise NonFiniteError("relevance is not finite. do: use trace().attribute(), or another dtype than float16")
        return relevance


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


def _check_model(model: nn.Module) -> None:
    """What can be said before anything is touched."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model. do: AutoModelForCausalLM.from_pretrained(...)"
        )
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise UnsupportedModelError(
            "the model is compiled, and compiled code does not see patched modules. "
            "do: instrument model._orig_mod, and compile after remove() if at all"
        )
    if any(is_patched(module) for module in model.modules()):
        raise AlreadyInstrumentedError(
            f"{type(model).__name__} is instrumented already, in whole or in part. "
            "do: remove() the first instrumentation, or use it; two rule sets need two model instances"
        )
    if getattr(model, "use_kernels", False):
        raise UnsupportedModelError(
            "the model runs hub kernels (use_kernels=True), which replace forwards again on every train()/eval(). "
            "do: load it without use_kernels"
        )
    if torch.is_inference_mode_enabled():
        raise GradientError("instrument() was called in torch.inference_mode(), where no gradient can flow")
    embedding_device(model)
