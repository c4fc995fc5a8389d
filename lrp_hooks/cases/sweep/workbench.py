"""One loaded model and the items that are made with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from lrp_hooks.cases.inputs import CaseInput, case_input, fingerprint
from lrp_hooks.cases.schema import Case
from lrp_hooks.cases.sweep.breakdown import breakdown
from lrp_hooks.cases.sweep.records import Attributed, Item, Piece, Validated
from lrp_hooks.cases.sweep.store import GRAPH, Store
from lrp_hooks.cases.validation.masking import filler
from lrp_hooks.cases.validation.repair import Repair
from lrp_hooks.cases.validation.validate import Rules, validate
from lrp_hooks.cases.verifiers import Verifiers
from lrp_hooks.errors import InputError
from lrp_hooks.files import write_atomically
from lrp_hooks.instrumentation.instrument import Instrumentation, instrument
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.relevance import Relevance

if TYPE_CHECKING:
    from lrp_hooks.cases.sweep.sweep import Plan


class Workbench:
    """Makes records with one model. It is instrumented once per run of items with the same composite.

    Raises:
        InputError: words cannot be masked with this model's tokenizer in the way that the plan asks for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        name: str,
        plan: Plan,
        cases: Sequence[Case],
        store: Store,
        verifiers: Verifiers,
    ):
        self._loaded, self._name, self._plan, self._store, self._verifiers = loaded, name, plan, store, verifiers
        for replacement in plan.rules.replacements if plan.rules is not None and loaded.tokenizer is not None else ():
            filler(loaded, replacement)
        self._cases = {case.id: case for case in cases}
        self._lrp: Instrumentation | None = None

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bare()

    def attributed(self, item: Item) -> Attributed:
        """Relevance of one case by one composite; also its layers and, where asked for, its graph as files."""
        given = self._given(item)
        lrp = self._instrumented(item.composite)
        trace = lrp.trace(input_ids=torch.tensor([given.ids], device=self._device))
        relevance = trace.attribute(given.why(self._loaded.tokenizer))
        if self._plan.graphs:
            graph = trace.graph(given.why(self._loaded.tokenizer), tokenizer=self._loaded.tokenizer)
            graph.save(self._store.path(item, GRAPH))
        logits = trace.logits()[0].float()
        self._save_layers(item, relevance)
        scores = [float(f"{score:.6g}") for score in relevance.tokens[0].tolist()]
        top = int(logits.argmax())
        return Attributed(
            case=item.case,
            model=self._name,
            composite=item.composite,
            tokenizer=self._fingerprint,
            value=float(relevance.value[0]),
            target_logit=float(logits[given.target]),
            contrast_logit=float(logits[given.contrast]),
            top=top,
            top_text=self._loaded.tokenizer.decode([top], clean_up_tokenization_spaces=False),
            ledger=float(relevance.ledger().max()) if lrp.composite.is_lrp else None,
            shares=breakdown(given.segments, scores),
            pieces=tuple(Piece(**asdict(text)) for text in given.texts),
            scores=tuple(scores),
        )

    def validated(self, item: Item) -> Validated:
        """Words to flip by each composite that was attributed, and verdicts where the case has a verifier.

        Raises:
            InputError: none was.
        """
        given, rules = self._given(item), self._plan.rules
        scores: dict[str, Sequence[float]] = {}
        for composite in self._plan.composites:
            record = self._store.read(Item("attribute", self._name, item.case, composite))
            if isinstance(record, Attributed) and not record.error:
                scores[composite] = record.scores
        if not scores or rules is None:
            raise InputError("no attribution of this case to validate")
        self._bare()
        lacking = unjudged(given.case, rules, self._verifiers)
        repair = None if lacking else Repair(self._loaded, self._verifiers.judge(given.case), rules.max_new_tokens)
        made = validate(self._loaded, given, scores, rules, repair).model_copy(update={"unjudged": lacking})
        return Validated(case=item.case, model=self._name, validation=made)

    def _given(self, item: Item) -> CaseInput:
        return case_input(self._loaded, self._cases[item.case])

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._loaded.tokenizer)

    @property
    def _device(self) -> torch.device:
        from lrp_hooks.structure.probe import embedding_device

        return embedding_device(self._loaded.model)

    def _instrumented(self, composite: str) -> Instrumentation:
        if self._lrp is None or self._lrp.composite.name != composite:
            self._bare()
            self._lrp = instrument(self._loaded.model, composite)
        return self._lrp

    def _bare(self) -> None:
        if self._lrp is not None:
            self._lrp.remove()
            self._lrp = None

    def _save_layers(self, item: Item, relevance: Relevance) -> None:
        """Relevance per residual point [L+1, T] and per token [T], beside the record."""
        from safetensors.torch import save

        tensors: dict[str, Any] = {"tokens": relevance.tokens[0], "layers": relevance.layers[0]}
        data = save({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()})
        write_atomically(self._store.path(item, ".safetensors"), lambda file: file.write(data))


def unjudged(case: Case, rules: Rules, verifiers: Verifiers) -> str:
    """Why a sweep does not judge the answers to a case; empty where it does."""
    if rules.judged is None:
        return "the model does not go on from words masked by pad. do: another --replacement besides"
    return verifiers.lacking(case)
