"""One problem of a benchmark, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lrp_hooks.cases.schema import Case, Message, verifiers
from lrp_hooks.cases.verify import Instruction, Verdict, verify


@dataclass(frozen=True)
class Problem:
    """A prompt with what an answer must do.

    Attributes:
        benchmark: its name, as the command line has it.
        key: the benchmark's own number or name.
        prompt: what is asked.
        instruction_ids: such as "punctuation:no_comma"; of other benchmarks than IFEval and own prompts there is one.
        parameters: per instruction, names and values.
        messages: the chat, where it is more than the prompt as a user's message.
        plain: the prompt is given as it stands, without chat template.
    """

    benchmark: str
    key: int | str
    prompt: str
    instruction_ids: tuple[str, ...]
    parameters: tuple[Mapping[str, Any], ...]
    messages: tuple[Message, ...] = ()
    plain: bool = False

    @classmethod
    def of(cls, case: Case) -> Problem | None:
        """The problem that a case carries with it, None where it has no verifiers."""
        if not case.instruction_ids:
            return None
        benchmark, _, key = case.source.partition(":")
        return cls(
            benchmark,
            key,
            case.question,
            case.instruction_ids,
            case.parameters,
            messages=case.messages or (),
            plain=case.messages is None,
        )

    @property
    def id(self) -> str:
        """Unique over all benchmarks, such as "ifeval:1000"."""
        return f"{self.benchmark}:{self.key}"

    @property
    def chat(self) -> tuple[Message, ...] | None:
        """What the model is given as a chat, None for a plain prompt."""
        return None if self.plain else self.messages or (Message(role="user", content=self.prompt),)

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The verifiers."""
        return verifiers(self.instruction_ids, self.parameters)

    @property
    def comparable(self) -> bool:
        """False when an official verdict would be drawn at random (two of IFEval's that count "#" and "!")."""
        return all(each.comparable for each in self.instructions)

    @property
    def executes(self) -> bool:
        """Whether an answer is judged by running it."""
        return any(each.executes for each in self.instructions)

    def verify(self, response: str) -> Verdict:
        """The strict verdict."""
        return verify(self.instructions, response)
