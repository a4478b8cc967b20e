"""How fast a model answers while requests wait for it, so that what could only end as 504 is refused at once as 429.

A queue that is longer than the deadline answers nobody in time: everything waits, and what is served is late already
(Nygard, Release It!; "queue collapse"). By Little's law, with n requests in flight and an answer every s seconds, one
more is answered after (n + 1) x s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import DeadlineExceeded, InputError, Overloaded

WINDOW = 48  # gaps averaged: answers come in batches, and within one of them the gaps are near 0
ENOUGH = 16  # answers before anybody is refused: the first ones of a model tell of its start, not of its pace
SHARE = 0.7  # of the time left that may be spent waiting: the rest is for a pace that falls, and for the way back


class Pace:
    """One model in one process. now: a monotonic clock, seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since = 0.0  # the last answer, or when work began after a rest
        self._gaps: deque[float] = deque(maxlen=WINDOW)
        self.in_flight = 0

    @property
    def gap_s(self) -> float:
        """Average of the last gaps, 0 before the first answer."""
        return sum(self._gaps) / len(self._gaps) if self._gaps else 0.0

    @property
    def expected_s(self) -> float:
        """Until one more request would be answered."""
        return (self.in_flight + 1) * self.gap_s

    def check(self, left_s: float, shed: Callable[[str], None]) -> None:
        """Raise Overloaded where the answer would come after `left_s`, in all likelihood.

        Alone, a request is always let in: a pace that is wrong would else never be measured again.
        """
        if self.in_flight and len(self._gaps) >= ENOUGH and self.expected_s > SHARE * left_s:
            shed("wait")
            raise Overloaded(
                f"{self.in_flight} requests wait; one more would take about {self.expected_s:.1f} s of {left_s:.1f} s"
            )

    @contextmanager
    def take(self, left_s: float, shed: Callable[[str], None]) -> Iterator[None]:
        """Hold a place for the block. Raises Overloaded as `check`."""
        self.check(left_s, shed)
        began, before = self._now(), self.in_flight
        if not before:
            self._since = began
        self.in_flight += 1
        try:
            yield
            self._answered()
        except InputError:  # refused by the model, which is an answer: a queue of bad pictures moves on too
            self._answered()
            raise
        except (TimeoutError, DeadlineExceeded):
            self._expired(self._now() - began, before)
            raise
        finally:
            self.in_flight -= 1

    def _answered(self) -> None:
        now = self._now()
        self._gaps.append(now - self._since)
        self._since = now

    def _expired(self, waited_s: float, before: int) -> None:
        """A server that answers nobody in time shows no gaps, but that it did not come through so many: it is at least
        so slow."""
        self._gaps.append(max(self.gap_s, waited_s / (before + 1)))
