"""Is another answer better than the one that failed?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from lrp_hooks.cases.verify import Instruction


class Grade(IntEnum):
    """What an answer is worth beside the one that failed."""

    NO_BETTER = 0
    REPAIRS = 1
    """At least one broken instruction is followed now, and none that was followed is broken."""
    PASSES = 2
    """Every instruction is followed."""


@dataclass(frozen=True)
class Judge:
    """Compares answers with the one that failed.

    Attributes:
        instructions: the prompt's verifiers.
        before: which of them the failed answer follows.
        goal: the least grade that counts.
        min_words: answers with fewer words are trivial: "A" follows seven kinds of instructions. One that states the
            answer that was asked for never is.
        prompt: an answer that only repeats a part of the prompt is trivial, too.
    """

    instructions: Sequence[Instruction]
    before: Sequence[bool]
    goal: Grade = Grade.REPAIRS
    min_words: int = 5
    prompt: str = ""

    def grade(self, text: str) -> Grade:
        """The grade of a finished answer."""
        now = [each.passes(text) for each in self.instructions]
        if all(now):
            return Grade.PASSES
        spoilt = any(was and not is_ for was, is_ in zip(self.before, now, strict=True))
        return Grade.NO_BETTER if spoilt or sum(now) <= sum(self.before) else Grade.REPAIRS

    def good(self, text: str) -> bool:
        """Whether a finished answer reaches the goal and says something."""
        return not self.trivial(text) and self.grade(text) >= self.goal

    def hopeless(self, text: str) -> bool:
        """Whether no continuation can reach the goal."""
        lost = [each.hopeless(text) for each in self.instructions]
        if self.goal is Grade.PASSES:
            return any(lost)
        failed = [gone for gone, was in zip(lost, self.before, strict=True) if not was]
        return all(failed) or any(gone and was for gone, was in zip(lost, self.before, strict=True))

    def trivial(self, text: str) -> bool:
        """Too few words, hardly any different ones, or nothing but a part of the prompt."""
        if any(each.states_answer and each.passes(text) for each in self.instructions):
            return False
        words = re.findall(r"\w+", text.lower())
        few = len(words) < self.min_words or len(set(words)) < min(self.min_words, 3)
        return few or " ".join(words) in " ".join(re.findall(r"\w+", self.prompt.lower()))
