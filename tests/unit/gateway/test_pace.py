"""Admission by the wait that is to be expected, on a simulated server: first in, first out, 50 ms of work an answer."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import pytest

from serving.errors import DeadlineExceeded, ImageInvalid, Overloaded
from serving.gateway.pace import ENOUGH, Pace

SERVICE_S = 0.05
DEADLINE_S = 1.0


class Blind(Pace):
    """The defect: whoever comes is let in."""

    @property
    def expected_s(self) -> float:
        return 0.0


class Hasty(Pace):
    """The defect: the last answers weigh most, so a batch that has just been answered looks like a quick server."""

    weighed_s = 0.0

    @property
    def gap_s(self) -> float:
        return self.weighed_s

    def _answered(self) -> None:
        super()._answered()
        self.weighed_s += 0.1 * (self._gaps[-1] - self.weighed_s)


class Deaf(Pace):
    """The defect: only answers tell of the pace, so a server whose answers all come too late has none."""

    def _expired(self, waited_s: float, before: int) -> None:
        pass


@dataclass(slots=True)
class Waiting:
    """One request in the queue of the simulated server. held: its place in the gateway, until it is answered or due."""

    due_s: float
    held: AbstractContextManager[None] | None

    def answer(self) -> bool:
        """Whether somebody still waited for it."""
        held, self.held = self.held, None
        if held is not None:
            held.__exit__(None, None, None)
        return held is not None

    def expire(self) -> bool:
        """Whether nobody had answered it."""
        held, self.held = self.held, None
        if held is not None:
            error = DeadlineExceeded("late")
            with pytest.raises(DeadlineExceeded):
                if not held.__exit__(DeadlineExceeded, error, None):
                    raise error
        return held is not None


class World:
    """Arrivals, a gateway that gives up at the deadline, and a server with a queue behind it.

    batch: so many of those that wait are served together, in the time of all of them. drops: what is overdue leaves the
    queue; else it is served for nobody. room: of the queue; beyond it a request is refused at once, whatever the pace.
    """

    def __init__(
        self,
        pace_class: type[Pace],
        per_s: float,
        seconds: float,
        batch: int = 1,
        drops: bool = True,
        room: int = 10**6,
    ) -> None:
        self.now_s = 0.0
        self._batch, self._drops, self._room = batch, drops, room
        self.pace = pace_class(lambda: self.now_s)
        self.good = self.refused = 0
        self.late_at: list[float] = []
        self._queue: deque[Waiting] = deque()
        self._served: list[Waiting] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        rng = random.Random(3)
        at = 0.0
        while (at := at + rng.expovariate(per_s)) < seconds:
            self._at(at, self._arrive)
        while self._events:
            self.now_s, _, happen = heapq.heappop(self._events)
            happen()

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), happen))

    def _arrive(self) -> None:
        held = self.pace.take(DEADLINE_S, lambda reason: None)
        try:
            held.__enter__()
            if len(self._queue) >= self._room:
                full = Overloaded("the queue is full")
                held.__exit__(Overloaded, full, None)
                raise full
        except Overloaded:
            self.refused += 1
            return
        waiting = Waiting(self.now_s + DEADLINE_S, held)
        self._queue.append(waiting)
        self._at(waiting.due_s, lambda: self._due(waiting))
        self._serve()

    def _due(self, waiting: Waiting) -> None:
        if waiting.expire():
            self.late_at.append(self.now_s)

    def _serve(self) -> None:
        while self._queue and not self._served:
            while self._queue and len(self._served) < self._batch:
                waiting = self._queue.popleft()
                if waiting.due_s > self.now_s or not self._drops:
                    self._served.append(waiting)
            if self._served:
                self._at(self.now_s + SERVICE_S * len(self._served), self._finish)

    def _finish(self) -> None:
        served, self._served = self._served, []
        self.good += sum(waiting.answer() for waiting in served)
        self._serve()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_overload_keeps_the_goodput_of_the_peak(factor: float, batch: int) -> None:
    world = World(Pace, factor / SERVICE_S, 60, batch)
    assert world.good >= 0.95 * 60 / SERVICE_S and world.refused > 0
    assert all(at < 3 for at in world.late_at)  # until the pace is known


def test_without_it_the_queue_collapses() -> None:
    world = World(Blind, 2 / SERVICE_S, 60)
    assert world.good < 0.95 * 60 / SERVICE_S and max(world.late_at) > 50


def test_a_batch_just_answered_is_no_quicker_server() -> None:
    world = World(Hasty, 5 / SERVICE_S, 60, batch=8)
    assert world.good < 0.95 * 60 / SERVICE_S and max(world.late_at) > 50


@pytest.mark.parametrize("pace_class", [Pace, Deaf])
def test_a_server_that_is_found_with_a_full_queue_is_freed(pace_class: type[Pace]) -> None:
    world = World(pace_class, 20 / SERVICE_S, 60, batch=12, drops=False, room=40)  # 13 answers are in time
    assert (world.good >= 0.9 * 60 / SERVICE_S) is (pace_class is Pace)


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
        with pace.take(3, shed.append):
            assert pace.in_flight == 2
    assert shed == ["wait"] and pace.in_flight == 0


def test_what_failed_is_no_answer() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    with pytest.raises(RuntimeError), pace.take(1, lambda reason: None):
        now[0] += 0.5
        raise RuntimeError
    assert pace.gap_s == 0 and pace.in_flight == 0


def test_a_refused_picture_is_an_answer() -> None:
    """Forty a second, one of a hundred readable: who comes then waits 25 ms, not the 2.5 s between two good ones."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    with pace.take(1, lambda reason: None):
        for number in range(100 * ENOUGH):
            with suppress(ImageInvalid), pace.take(60, lambda reason: None):
                now[0] += 0.025
                if number % 100:
                    raise ImageInvalid("truncated")
        assert pace.gap_s == pytest.approx(0.025)
        with pace.take(1, lambda reason: None):
            assert pace.in_flight == 2
