"""Benchmarks: ratios within one run, never a clock in a test."""
