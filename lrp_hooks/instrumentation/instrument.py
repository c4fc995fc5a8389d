"""`instrument(model)`: patch one model instance in place so that its gradients are LRP's; undo it exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lrp_hooks.certificate import Certificate, certify
from lrp_hooks.certificate.report import Report, make_report
from lrp_hooks.composites import Composite, resolve
from lrp_hooks.detection.detect import Detection, detect
from lrp_hooks.detection.walk import Unclaimed
from lrp_hooks.errors import (
    AlreadyInstrumentedError,
    GradientError,
    InputError,
    InstrumentError,
    NonFiniteError,
    RemovedError,
    UnsupportedModelError,
    first_line,
)
from lrp_hooks.graph.collect import BlockKnowledge
from lrp_hooks.instrumentation.claiming import claim_inline
from lrp_hooks.instrumentation.compatibility import check_shared, check_state, check_transformers, looked_through
from lrp_hooks.instrumentation.verification import Unknown, verify
from lrp_hooks.loading.packing import keep_unpacked
from lrp_hooks.patching import Handle, NotCopyable, is_offloaded, is_patched, redirect_masks, run_eagerly
from lrp_hooks.patching.tensor_parallel import ranks_of
from lrp_hooks.recording.checkpointing import Checkpointing, Mode
from lrp_hooks.recording.recorder import Recorder
from lrp_hooks.recording.result import build_relevance
from lrp_hooks.recording.tape import Tape
from lrp_hooks.relevance import Relevance
from lrp_hooks.sites import Role, Site
from lrp_hooks.structure.probe import embedding_device
from lrp_hooks.structure.skeleton import Skeleton, find_skeleton
from lrp_hooks.targets import Target
from lrp_hooks.trace import Trace
from lrp_hooks.trace.batch import prepare_inputs


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
        model: a transformers model with a head: causal, masked and sequence-to-sequence language models, classifiers of
            sequences, tokens and images, question answering.
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
        check_transformers()
        self.checkpointing = Checkpointing(checkpoint, max_memory)
        model = looked_through(model)
        self.model, self.composite, self.tape = model, composite, Tape()
        self.block_knowledge = BlockKnowledge()
        _check_model(model)
        self.tape.ranks, self.checkpointing.weights_offloaded = ranks_of(model), is_offloaded(model)
        self._flags = [(m, m.training) for m in model.modules()]
        # by name: accelerate puts new placeholder parameters into offloaded modules after every forward
        self._frozen = [
            (module, name, p.requires_grad)
            for module in model.modules()
            for name, p in module.named_parameters(recurse=False)
        ]
        self._handles: list[Handle] = []
        self._eager: list[Handle] = []
        self._removed = False
        try:
            self._eager += keep_unpacked(model)
            self.detection: Detection = detect(model)
            attention = [p for p, f in self.detection.findings.items() if f.role is Role.ATTENTION]
            self._freeze()
            self._eager += run_eagerly(model)
            self.skeleton: Skeleton
            self.skeleton, untouched = find_skeleton(model, attention)
            check_shared(model, self.skeleton)
            self.sites = self._make_sites()
            self._register(self.sites)
            self.accepted: list[Unclaimed] = []
            self.value_error = 0.0
            try:
                if composite.is_lrp:
                    self.sites = (*self.sites, *claim_inline(self, self._handles.append))
                self.value_error, self.accepted = verify(self, untouched, unknown)
            except RuntimeError as error:  # autograd forbids something that this family does, e.g. in-place on a tap
                raise UnsupportedModelError(
                    f"{type(model).__name__} does not run with gradients as instrumented: {first_line(error)}"
                ) from error
        except BaseException:
            self.remove()
            raise

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
        self._unregister()
        for handle in reversed(self._eager):
            handle.remove()
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

    def _make_sites(self) -> tuple[Site, ...]:
        named = dict(self.model.named_modules())
        sites = [
            Site(path, named[path], found.role, found.spec, self.skeleton.block_of(path), found.error, self.tape)
            for path, found in self.detection.findings.items()
        ]
        if self.skeleton.softcap is not None:
            sites.append(Site("", self.model, Role.FINAL_SOFTCAP, self.skeleton.softcap, None, 0.0, self.tape))
        return tuple(sites)

    def _register(self, sites: tuple[Site, ...]) -> None:
        keep = self._handles.append
        recorder = Recorder(self.model, self.skeleton, self.tape, self.checkpointing)
        recorder.open(keep)
        self._handles += redirect_masks(self.skeleton.decoder)
        self._register_rules(sites)
        recorder.register(sites, keep)

    def _register_rules(self, sites: tuple[Site, ...]) -> None:
        for site in sites:
            rule = self.composite.rule_for(site)
            if rule is not None:
                self._handles.append(rule(site))

    def _unregister(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The model is its untouched self inside (parameters stay frozen), and instrumented again after."""
        self._check_active()
        inline = tuple(site for site in self.sites if site.role is Role.INLINE)
        self._unregister()
        try:
            yield
        finally:
            self._register(tuple(site for site in self.sites if site.role is not Role.INLINE))
            self._register_rules(inline)

    def trace(self, *, allow_beyond_max: bool = False, **inputs: Any) -> Trace:
        """Run one forward, to be asked any number of questions.

        ``lrp.trace(**tokenizer(prompt, return_tensors="pt"))``. Batches may be padded left or right; missing
        ``position_ids`` are derived from ``attention_mask``. Only the logits that are asked about are computed.

        Args:
            allow_beyond_max: accept prompts longer than ``max_position_embeddings``.
            inputs: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, D], ``attention_mask`` [B, T]; ``pixel_values``
                of an image classifier; also ``decoder_input_ids`` of an encoder-decoder model; and whatever else the
                model's forward takes.

        Raises:
            RemovedError, InputError, ContextLengthError, CacheError, GradientError, NonFiniteError.
        """
        self._check_active()
        if torch.is_inference_mode_enabled():
            raise GradientError("torch.inference_mode() forbids gradients. do: trace outside of it (no_grad is fine)")
        return Trace(self, prepare_inputs(self.model, self.skeleton, inputs, allow_beyond_max=allow_beyond_max))

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

    def certify(self, target: Target | None = None, **inputs: Any) -> Certificate:
        """Whether explanations of this model can be trusted, on the user's own prompt.

        Attributes the prompt and checks the ledger at every residual point; where it breaks, finds the first module
        that keeps relevance which nothing books. Then attributes the prompt's last tokens once more on the untouched
        model, by rules for autograd nodes that know nothing of modules, and compares entry by entry.

        Args:
            target: what is explained; the first against the second choice after the prompt by default.
            inputs: as for `trace`; a few arbitrary tokens by default.

        Raises:
            RemovedError, InputError, ContextLengthError, NonFiniteError, TargetError, TokenError.
        """
        self._check_active()
        return certify(self, target, inputs)

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


def _check_model(model: nn.Module) -> None:
    """What can be said before anything is touched."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model. do: AutoModelForCausalLM.from_pretrained(...)"
        )
    check_state(model)
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
