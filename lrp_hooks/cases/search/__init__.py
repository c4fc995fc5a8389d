"""The error token of a failed answer, and the token that would have repaired it."""
