"""Does an answer that goes on from a masked prompt satisfy the benchmark's verifier?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.generate import decode, generate
from lrp_hooks.cases.inputs import CaseInput
from lrp_hooks.cases.judge import Judge
from lrp_hooks.cases.masking import Masker
from lrp_hooks.cases.schema import Case
from lrp_hooks.loading.loaded import LoadedModel

if TYPE_CHECKING:
    from lrp_hooks.cases.validate import Flip

NEW_TOKENS = 160


@dataclass(frozen=True)
class Repair:
    """The verifier of one case, and the model that goes on.

    Attributes:
        max_new_tokens: the longest answer, what was said before the error included.
    """

    loaded: LoadedModel
    judge: Judge
    max_new_tokens: int = NEW_TOKENS

    def asked(
        self,
        given: CaseInput,
        masker: Masker,
        flips: Sequence[Flip],
        masks: Mapping[tuple[str, int], frozenset[int]],
    ) -> list[Flip]:
        """The flips with ``passes`` where a mask is given: the answer so far and the greedy continuation, judged."""
        distinct = list(dict.fromkeys(masks.values()))
        verdicts = dict(zip(distinct, self._verdicts(given, [masker.ids(mask) for mask in distinct]), strict=True))
        known = {key: verdicts[mask] for key, mask in masks.items()}
        return [flip.model_copy(update={"passes": known.get((flip.ranking, flip.draw))}) for flip in flips]

    def _verdicts(self, given: CaseInput, rows: list[list[int]]) -> list[bool]:
        if not rows:
            return []
        said = given.case.completion
        left = self.max_new_tokens - len(self.loaded.tokenizer(said, add_special_tokens=False)["input_ids"])
        made = dict(generate(self.loaded.model, self.loaded.tokenizer, rows, max_new_tokens=max(left, 1)))
        return [
            made[row].ended and self.judge.good(said + decode(self.loaded.tokenizer, made[row].ids))
            for row in range(len(rows))
        ]


def repair_of(loaded: LoadedModel, case: Case, prompts: Mapping[str, Problem]) -> Repair | None:
    """The verifier that a case carries, or that of the benchmark it comes from.

    None where there is none, where it would run programs, or where the whole answer is unknown.
    """
    prompt = Problem.of(case) or prompts.get(case.source)
    if prompt is None or case.response is None or not prompt.comparable or prompt.executes:
        return None
    before = tuple(each.passes(case.response) for each in prompt.instructions)
    return Repair(loaded, Judge(prompt.instructions, before, prompt=prompt.prompt))
