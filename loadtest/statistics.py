"""Median and bootstrap interval of ratios of pairs measured in the same round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """Median with a 95 % bootstrap interval, over `pairs` pairs."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(values: list[float], draws: int = 4000) -> Interval:
    """Percentile bootstrap of the median (Efron), seeded."""
    if not values:
        raise ValueError("interval: expected at least one value, got none")
    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(data, (draws, len(data))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Interval(float(np.median(data)), float(low), float(high), len(data))
