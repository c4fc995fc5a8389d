"""Planted failures: small transformers whose wrong token has a known cause."""
