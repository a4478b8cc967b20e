"""Durations come from PTS differences, never from a nominal frame rate (variable rate is normal)."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from statistics import median_low

WINDOW = 16
NS_PER_MS = 1_000_000


class NominalDuration:
    """The median of the last 16 positive PTS differences, in ticks; before the first, 1/average_rate, else 40 ms."""

    __slots__ = ("_default", "_steps")

    def __init__(self, time_base: Fraction, average_rate: Fraction | None) -> None:
        seconds = 1 / average_rate if average_rate else Fraction(40, 1000)
        self._default = max(1, round(seconds / time_base))
        self._steps: deque[int] = deque(maxlen=WINDOW)

    def add(self, step: int) -> None:
        """Take the distance of two accepted frames into account."""
        if step > 0:
            self._steps.append(step)

    @property
    def ticks(self) -> int:
        """At least one tick."""
        return median_low(self._steps) if self._steps else self._default


class AnalysisInterval:
    """The median PTS distance of the last 16 frames sent to inference, and H, the longest fill, which follows from it.

    H = max(150 ms, 2.5 x interval), at most 1 s; 1 s while fewer than two analysed frames are known.
    """

    __slots__ = ("_h_ns", "_last", "_steps")
    FLOOR_NS = 150 * NS_PER_MS
    CEILING_NS = 1000 * NS_PER_MS

    def __init__(self) -> None:
        self._steps: deque[int] = deque(maxlen=WINDOW - 1)
        self._last: int | None = None
        self._h_ns = self.CEILING_NS

    def add(self, pts_ns: int) -> None:
        """An analysed frame was accepted at `pts_ns`."""
        if self._last is not None and pts_ns > self._last:
            self._steps.append(pts_ns - self._last)
            wanted = median_low(self._steps) * 5 // 2
            self._h_ns = min(self.CEILING_NS, max(self.FLOOR_NS, wanted))
        self._last = pts_ns

    @property
    def interval_ns(self) -> int | None:
        """None while fewer than two analysed frames are known."""
        return median_low(self._steps) if self._steps else None

    @property
    def h_ns(self) -> int:
        """H, the longest fill, in nanoseconds."""
        return self._h_ns
