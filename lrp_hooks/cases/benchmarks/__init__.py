"""Benchmarks: problems, each with the verifiers that judge an answer."""
