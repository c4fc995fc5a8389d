"""Operations that a forward computes inline: each gets the rule of what it does."""

from lrp_hooks.rules.inline.claim import by_operation

__all__ = ["by_operation"]
