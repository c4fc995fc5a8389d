"""The tokens of the planted tasks: 64 ids in groups that say what a token can be."""

from __future__ import annotations

BOS, QUERY, TRIGGER = 0, 1, 2
INSTRUCTIONS = (3, 4, 5)
"""Take the first value; the same, weakly; take the last."""
NAMES = tuple(range(8, 20))
KEYS = tuple(range(20, 32))
VALUES = tuple(range(32, 45))
FILLERS = tuple(range(45, 64))
SIZE = 64


def word(token: int) -> str:
    """A readable name of a token."""
    fixed = {BOS: "<bos>", QUERY: "?", TRIGGER: "trigger", 3: "first", 4: "first~", 5: "last"}
    if token in fixed:
        return fixed[token]
    for letter, group in (("n", NAMES), ("k", KEYS), ("v", VALUES), ("f", FILLERS)):
        if token in group:
            return f"{letter}{group.index(token)}"
    raise ValueError(f"{token} is no token of this alphabet")
