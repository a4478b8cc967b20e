"""Frames that piled up while a worker was away: what is young enough for its picture is analysed, and at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from worker_support import NAMES, System

from serving.ports_log import TopicPartition
from serving.roles.analyst import Analyst
from serving.roles.jobs import WorkerSettings
from serving.roles.worker import LogWorker

FIRST, LATER = 60, 120  # frames of 40 ms: 2.4 s are read at once, 4.8 s more wait on the log
PLACE = TopicPartition(NAMES.topic("frames"), 0)


def ends_of_a_backlog(delay_ms: int) -> Counter[str]:
    """How frames end that wait on the log while the partition is full."""
    system = System()
    system.claim("cam")
    system.register("cam", delay_ms=delay_ms)
    worker = system.worker(settings=WorkerSettings(in_flight=32, max_batch=1))
    system.frames("cam", range(FIRST))
    worker.step(0.0)
    assert worker._parts[PLACE].paused
    system.frames("cam", range(FIRST, FIRST + LATER))
    system.until(lambda: len(system.ends()) == FIRST + LATER, worker, step_ms=1)
    return Counter(system.ends().values())


def test_a_backlog_younger_than_max_age_is_analysed_to_the_last_frame() -> None:
    """Seen on `lockstep up`: half of all frames went although D left ten seconds for them."""
    assert ends_of_a_backlog(20_000) == {"result": FIRST + LATER}


def test_a_backlog_older_than_max_age_makes_room() -> None:
    ends = ends_of_a_backlog(1_000)
    assert ends.keys() <= {"result", "stale", "overload"} and ends["stale"] > 0
    assert ends["stale"] + ends["overload"] >= FIRST, "D/2 are twelve frames: the first are over it by what is unread"


def test_making_room_by_count_alone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the worker that shed whatever was in hand as soon as something was unread."""
    whole: Callable[[Analyst, TopicPartition, int, int], None] = Analyst.relieve
    monkeypatch.setattr(Analyst, "relieve", lambda self, place, count, _: whole(self, place, count, 1_000_000))
    assert ends_of_a_backlog(20_000)["stale"] > 0


def test_the_next_trial_follows_the_end_of_the_last_and_not_the_poll() -> None:
    """A poll waits for records; a partition that is tried record by record is paused and would get none."""
    system = System()
    system.claim("cam")
    system.frames("cam", range(3))
    first = system.worker()
    first.step(0.0)
    system.kill(first)
    second = system.worker()
    second.step(0.0)
    assert second._parts[PLACE].trying == 0, "what the first may have ended by"
    took: list[float] = []

    def wait() -> None:
        begun = time.monotonic()
        second._await_trial(20.0)
        took.append(time.monotonic() - begun)

    thread = threading.Thread(target=wait)
    thread.start()
    while second._parts[PLACE].trying is not None:
        second.analyst.turn()
    thread.join(30)
    assert took and took[0] < 10


def test_nothing_is_waited_for_where_nothing_is_tried() -> None:
    system = System()
    system.claim("cam")
    system.frames("cam", range(3))
    worker: LogWorker = system.worker()
    worker.step(0.0)
    assert worker._await_trial(20.0) is False
