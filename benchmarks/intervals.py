"""Means with bootstrap intervals, and rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def mean_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and the percentile bootstrap's interval over ``values``: (mean, low, high).

    Raises:
        ValueError: no value.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        raise ValueError("no value to take the mean of")
    generator = np.random.default_rng(seed)
    means = sample[generator.integers(0, len(sample), (RESAMPLES, len(sample)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(sample.mean()), float(low), float(high)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1; ties share the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    result: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return result


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    """Linear correlation; 0 where one side does not vary."""
    x, y = (np.asarray(side, dtype=np.float64) - np.mean(side) for side in (a, b))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation."""
    return pearson(ranks(a).tolist(), ranks(b).tolist())
