"""A circuit breaker a model: after a failure that the next request would meet too, callers are refused at once.

While open, callers are let through as probes, the first at once, then one every `retry_s`; a success closes it. A
dead model process otherwise costs each caller a second of waiting, one after the other. Those that waited so fail late,
often when the model is long back. So a failure counts only if nothing that started after it succeeded, and no failure
delays a probe: only the sending of one delays the next. A caller that comes while a probe is on its way waits up to
`patience_s` for its outcome: what has recovered refuses nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Breaker:
    """State of one model. Not for several threads: an event loop's. Times are the clock's, in seconds."""

    retry_s: float = 0.25
    patience_s: float = 0.05
    clock: Callable[[], float] = time.monotonic
    reason: str = ""
    _opened_at: float = 0.0
    _probed_at: float = float("-inf")
    _outcome: asyncio.Event = field(default_factory=asyncio.Event)
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
        self._probed_at, self._outcome = now, asyncio.Event()
        return True

    async def admitted(self) -> bool:
        """As `admits`, after the outcome of a probe that was sent less than `patience_s` ago."""
        if self.admits():
            return True
        left = self._probed_at + self.patience_s - self.clock()
        if left <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._outcome.wait(), left)
        return self.admits()

    def succeeded(self, started: float) -> None:
        """A request that began at `started` was answered: close."""
        self.reason = ""
        self._good_since = max(self._good_since, started)
        self._outcome.set()

    def failed(self, reason: str, started: float) -> None:
        """A request that began at `started` found the dependency down: open, or stay open."""
        if started < self._good_since:
            return
        now = self.clock()
        if not self.reason:
            self._opened_at = self._probe_at = now
        elif started >= self._opened_at:
            self._outcome.set()
        self.reason = reason
