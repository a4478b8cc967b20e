"""Admission by the wait that is to be expected, on a simulated server: first in, first out, one answer every 50 ms."""

from __future__ import annotations

import heapq
import random
from collections import deque
from contextlib import AbstractContextManager

import pytest

from serving.errors import DeadlineExceeded, Overloaded
from serving.gateway.pace import ENOUGH, Pace

SERVICE_S = 0.05
DEADLINE_S = 1.0


class Blind(Pace):
    """The defect: whoever comes is let in."""

    @property
    def expected_s(self) -> float:
        return 0.0


class World:
    """Arrivals, a queue that drops what is overdue before it is served, and answers that may still come too late."""

    def __init__(self, pace_class: type[Pace], per_s: float, seconds: float, seed: int = 3) -> None:
        self.now_s = 0.0
        self.pace = pace_class(lambda: self.now_s)
        self.good = self.refused = 0
        self.late_at: list[float] = []
        self._queue: deque[tuple[float, AbstractContextManager[None]]] = deque()
        self._busy = False
        rng = random.Random(seed)
        events: list[tuple[float, int, str]] = []
        at = 0.0
        while (at := at + rng.expovariate(per_s)) < seconds:
            events.append((at, len(events), "arrival"))
        heapq.heapify(events)
        self._events, self._count = events, len(events)
        while self._events:
            self.now_s, _, kind = heapq.heappop(self._events)
            self._arrive() if kind == "arrival" else self._finish()

    def _arrive(self) -> None:
        place = self.pace.take(DEADLINE_S, lambda reason: None)
        try:
            place.__enter__()
        except Overloaded:
            self.refused += 1
            return
        self._queue.append((self.now_s + DEADLINE_S, place))
        self._serve()

    def _serve(self) -> None:
        while self._queue and not self._busy:
            due_s, place = self._queue[0]
            if due_s > self.now_s:
                self._busy = True
                self._count += 1
                heapq.heappush(self._events, (self.now_s + SERVICE_S, self._count, "finish"))
                return
            self._queue.popleft()
            self._expire(place)

    def _finish(self) -> None:
        self._busy = False
        due_s, place = self._queue.popleft()
        if self.now_s <= due_s:
            self.good += 1
            place.__exit__(None, None, None)
        else:
            self._expire(place)
        self._serve()

    def _expire(self, place: AbstractContextManager[None]) -> None:
        self.late_at.append(self.now_s)
        error = DeadlineExceeded("late")
        with pytest.raises(DeadlineExceeded):
            if not place.__exit__(DeadlineExceeded, error, None):
                raise error


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_overload_keeps_the_goodput_of_the_peak(factor: float) -> None:
    world = World(Pace, factor / SERVICE_S, 60)
    assert world.good >= 0.95 * 60 / SERVICE_S and world.refused > 0
    assert all(at < 3 for at in world.late_at)  # until the pace is known


def test_without_it_the_queue_collapses() -> None:
    world = World(Blind, 2 / SERVICE_S, 60)
    assert world.good < 0.95 * 60 / SERVICE_S and max(world.late_at) > 50


def test_below_the_peak_nobody_is_refused() -> None:
    world = World(Pace, 0.7 / SERVICE_S, 60)
    assert world.refused == 0 and world.late_at == []


def test_alone_a_request_is_let_in_and_a_wrong_pace_is_measured_anew() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    with pace.take(60, lambda reason: None):
        now[0] += 40  # the server stood still
    for _ in range(60):
        with pace.take(1, lambda reason: None):
            now[0] += 0.01
    assert pace.gap_s < 0.1


def test_a_refusal_is_counted_and_says_how_long_it_would_take() -> None:
    now, shed = [0.0], list[str]()
    pace = Pace(lambda: now[0])
    for _ in range(ENOUGH):
        with pace.take(1, shed.append):
            now[0] += 0.8
    with pace.take(1, shed.append):
        with pytest.raises(Overloaded, match=r"1 requests wait; one more would take about 1\.6 s of 1\.0 s"):
            pace.take(1, shed.append).__enter__()
        with pace.take(2, shed.append):
            assert pace.in_flight == 2
    assert shed == ["wait"] and pace.in_flight == 0


def test_what_failed_is_no_answer() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    with pytest.raises(RuntimeError), pace.take(1, lambda reason: None):
        now[0] += 0.5
        raise RuntimeError
    assert pace.gap_s == 0 and pace.in_flight == 0
