"""What every instruction verifier offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass

from lrp_hooks.errors import CaseError

RELATIONS: tuple[str, ...] = ("less than", "at least")


@dataclass(frozen=True)
class Instruction(ABC):
    """What a response must do: follow an instruction (IFEval, arXiv 2311.07911), give an answer, pass tests."""

    @abstractmethod
    def holds(self, text: str) -> bool:
        """Whether a finished response follows the instruction; the text is not blank."""

    def passes(self, text: str) -> bool:
        """`holds`, and False for a blank response: IFEval's rule for every instruction."""
        return bool(text.strip()) and self.holds(text)

    def passes_loosely(self, text: str) -> bool:
        """The loose verdict: without its first line, its last line, both or neither; with or without asterisks.

        Source: arXiv 2311.07911, section 3: an upper bound that forgives "Sure, here it is:" and Markdown.
        """
        lines = text.split("\n")
        cut = (text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])))
        return any(self.passes(form) for form in (*cut, *(form.replace("*", "") for form in cut)))

    def hopeless(self, text: str) -> bool:
        """Whether no continuation of ``text`` can pass. False also where that cannot be told from the text.

        Monotone: once True, it is True for every longer text.
        """
        return False

    def lacks(self, text: str) -> tuple[str, ...]:
        """Texts of which a response that does not follow the instruction lacks one; empty where no text would do."""
        return ()

    def broken_at(self, text: str) -> int | None:
        """Index of the character after which no continuation can pass, None when there is none.

        That is the smallest i with ``hopeless(text[:i + 1])``, found by bisection.
        """
        if not self.hopeless(text):
            return None
        return bisect_left(range(len(text)), True, key=lambda i: self.hopeless(text[: i + 1]))

    @property
    def states_answer(self) -> bool:
        """Whether what passes is the answer that was asked for, however short it is."""
        return False

    @property
    def executes(self) -> bool:
        """Whether a verdict takes running a program that the response holds."""
        return False

    @property
    def comparable(self) -> bool:
        """False where the official verifier draws its parameter at random, so that its verdict means nothing."""
        return True


def check_relation(relation: str) -> None:
    """Raise for a relation that IFEval does not know."""
    if relation not in RELATIONS:
        raise CaseError(f"unknown relation {relation!r}. choices: {', '.join(RELATIONS)}")


def compare(count: int, relation: str, number: int) -> bool:
    """``count`` less than, or at least, ``number``."""
    return count < number if relation == "less than" else count >= number


def too_many(count: int, relation: str, number: int) -> bool:
    """Whether a count that can only grow rules the instruction out."""
    return relation == "less than" and count >= number
