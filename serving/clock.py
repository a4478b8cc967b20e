"""Time is an argument: whoever decides by time is handed a `Clock` or an integer read from one.

Only this module asks the operating system, and only for the monotonic clock. No order, join, lateness or expiry of
the pipeline looks at the wall clock, so stepping or slewing it changes nothing (docs/guarantees.md, G14).
"""

from __future__ import annotations

import time
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


class Clock(Protocol):
    """A source of monotonic time. Values of two processes must never be compared."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never falls."""
        ...


class SystemClock:
    """The operating system's monotonic clock."""

    __slots__ = ()

    def monotonic_ns(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()
