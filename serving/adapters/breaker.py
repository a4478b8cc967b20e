"""A circuit breaker a model: after a failure that the next request would meet too, callers are refused at once.

While open, one caller every `retry_s` is let through as a probe; its success closes the breaker. A dead model process
otherwise costs each caller a second of waiting, one after the other. Those that waited so fail late, perhaps when the
model is long back: a failure counts only if nothing that started after it succeeded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """State of one model. Not for several threads: an event loop's. Times are the clock's, in seconds."""

    retry_s: float = 0.25
    clock: Callable[[], float] = time.monotonic
    reason: str = ""
    _probe_at: float = 0.0
    _good_since: float = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether callers are refused now (probes excepted)."""
        return bool(self.reason)

    def admits(self) -> bool:
        """Whether this caller may go on: the breaker is closed, or the caller is the probe."""
        if not self.reason:
            return True
        now = self.clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + self.retry_s
        return True

    def succeeded(self, started: float) -> None:
        """A request that began at `started` was answered: close."""
        self.reason = ""
        self._good_since = max(self._good_since, started)

    def failed(self, reason: str, started: float) -> None:
        """A request that began at `started` found the dependency down: open, or stay open."""
        if started < self._good_since:
            return
        self.reason = reason
        self._probe_at = self.clock() + self.retry_s
