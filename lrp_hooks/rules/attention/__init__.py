"""Softmax attention: its rule, and which implementation computes it."""

from lrp_hooks.rules.attention.softmax import share_attention

__all__ = ["share_attention"]
