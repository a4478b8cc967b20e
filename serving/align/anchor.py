"""Where a live timeline sits on this role's monotonic clock: anchor + pts_ns is when a frame could first have come.

The anchor is the lower envelope of (arrival - pts) over 30 s. It falls freely during the first 2 s of an epoch and then
follows the envelope at 500 ppm at most, so that the picture is never seen to jump.
"""

from __future__ import annotations

from collections import deque

NS_PER_S = 1_000_000_000
SPAN_NS = 30 * NS_PER_S
FREE_NS = 2 * NS_PER_S
SLEW_PPM = 500


class Anchor:
    """The anchor of one epoch. None before the first sample."""

    __slots__ = ("_minima", "_started_ns", "_updated_ns", "value_ns")

    def __init__(self) -> None:
        self.value_ns: int | None = None
        self._started_ns = 0
        self._updated_ns = 0
        self._minima: deque[tuple[int, int]] = deque()  # (arrival, offset), both rising

    def sample(self, arrival_ns: int, pts_ns: int) -> None:
        """A record read at the end of the log came in now."""
        offset = arrival_ns - pts_ns
        while self._minima and self._minima[-1][1] >= offset:
            self._minima.pop()
        self._minima.append((arrival_ns, offset))
        while self._minima[0][0] < arrival_ns - SPAN_NS:
            self._minima.popleft()
        envelope = self._minima[0][1]
        if self.value_ns is None:
            self.value_ns, self._started_ns = offset, arrival_ns
        elif arrival_ns - self._started_ns <= FREE_NS:
            self.value_ns = min(self.value_ns, offset)
        else:
            most = (arrival_ns - self._updated_ns) * SLEW_PPM // 1_000_000
            self.value_ns += max(-most, min(most, envelope - self.value_ns))
        self._updated_ns = arrival_ns
