"""Failure analysis: benchmark prompts, verified completions, and the token at which a completion went wrong."""
