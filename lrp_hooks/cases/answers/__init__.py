"""Answers to a benchmark: written, judged, and kept."""
