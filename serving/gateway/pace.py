"""How fast a model answers while requests wait for it, so that what could only end as 504 is refused at once as 429.

A queue that is longer than the deadline answers nobody in time: everything waits, and what is served is late already
(Nygard, Release It!; "queue collapse"). By Little's law, with n requests in flight and an answer every s seconds, one
more is answered after (n + 1) x s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import Overloaded

WEIGHT = 0.1  # of the newest gap in the average
ENOUGH = 16  # answers before anybody is refused: the first ones of a model tell of its start, not of its pace
SHARE = 0.9  # of the time left that may be spent waiting: the rest is for the answer's way back


class Pace:
    """One model in one process. now: a monotonic clock, seconds. gap_s: average time between answers while busy."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since = 0.0  # the last answer, or when work began after a rest
        self._answers = 0
        self.in_flight = 0
        self.gap_s = 0.0

    @property
    def expected_s(self) -> float:
        """Until one more request would be answered."""
        return (self.in_flight + 1) * self.gap_s

    @contextmanager
    def take(self, left_s: float, shed: Callable[[str], None]) -> Iterator[None]:
        """Hold a place for the block. Raises Overloaded where the answer would come after `left_s`, in all likelihood.

        Alone, a request is always let in: a pace that is wrong would else never be measured again.
        """
        if self.in_flight and self._answers >= ENOUGH and self.expected_s > SHARE * left_s:
            shed("wait")
            raise Overloaded(
                f"{self.in_flight} requests wait; one more would take about {self.expected_s:.1f} s of {left_s:.1f} s"
            )
        if not self.in_flight:
            self._since = self._now()
        self.in_flight += 1
        try:
            yield
            self._answered()
        finally:
            self.in_flight -= 1

    def _answered(self) -> None:
        now = self._now()
        gap, self._since = now - self._since, now
        self._answers += 1
        self.gap_s += max(WEIGHT, 1 / self._answers) * (gap - self.gap_s)  # the mean of the first ones
