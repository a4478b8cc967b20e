"""A clock that moves when a test says so."""

from __future__ import annotations


class HandClock:
    """`serving.clock.Clock` moved by hand; it never falls."""

    __slots__ = ("_now_ns",)

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def monotonic_ns(self) -> int:
        """The time it was last set to."""
        return self._now_ns

    def advance(self, by_ns: int) -> int:
        """Let time pass; ValueError if it would fall."""
        if by_ns < 0:
            raise ValueError(f"HandClock.advance: expected >= 0 ns, got {by_ns}")
        self._now_ns += by_ns
        return self._now_ns

    def set(self, now_ns: int) -> None:
        """Move to an absolute time; ValueError if it would fall."""
        self.advance(now_ns - self._now_ns)
