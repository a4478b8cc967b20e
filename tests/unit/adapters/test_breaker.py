"""The breaker refuses at once while a dependency is down, and probes."""

from __future__ import annotations

import asyncio
import time

from serving.adapters.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_open_refuses_all_but_one_probe_an_interval() -> None:
    clock = Clock()
    breaker = Breaker(retry_s=0.25, clock=clock)
    assert breaker.admits() and not breaker.is_open
    breaker.failed("gone", clock.now)
    assert breaker.is_open
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    clock.now += 0.25
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    clock.now += 0.25
    assert breaker.admits()


def test_a_probes_success_closes_and_its_failure_keeps_open() -> None:
    clock = Clock()
    breaker = Breaker(retry_s=0.25, clock=clock)
    breaker.failed("gone", clock.now - 1.0)
    assert breaker.admits()
    breaker.failed("still gone", clock.now)
    assert not breaker.admits() and breaker.reason == "still gone"
    clock.now += 0.3
    assert breaker.admits()
    breaker.succeeded(clock.now)
    assert breaker.admits() and breaker.admits() and not breaker.is_open


def test_a_late_failure_of_an_older_request_does_not_open_again() -> None:
    clock = Clock()
    breaker = Breaker(retry_s=0.25, clock=clock)
    breaker.failed("gone", started=100.0)
    breaker.succeeded(started=101.5)
    breaker.failed("gone", started=101.0)
    assert not breaker.is_open
    breaker.failed("gone again", started=101.6)
    assert breaker.is_open


def test_failures_do_not_delay_a_probe() -> None:
    """Requests stuck in a dead process, probes among them, fail a second later, often when its successor answers."""
    clock = Clock()
    breaker = Breaker(retry_s=0.25, clock=clock)
    breaker.failed("gone", started=99.0)
    breaker.failed("gone", started=99.1)
    assert breaker.admits() and not breaker.admits()
    probed = clock.now
    clock.now += 1.0
    breaker.failed("gone", started=99.2)
    breaker.failed("gone", started=probed)
    assert breaker.admits() and not breaker.admits()
    breaker.succeeded(clock.now)
    breaker.failed("gone", started=probed)
    assert not breaker.is_open


def test_callers_wait_for_a_probe_on_its_way_and_no_longer_than_their_patience() -> None:
    async def run() -> None:
        breaker = Breaker(retry_s=60.0, patience_s=5.0)
        breaker.failed("gone", time.monotonic())
        assert await breaker.admitted()
        waiting = [asyncio.create_task(breaker.admitted()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        breaker.succeeded(time.monotonic())
        assert await asyncio.gather(*waiting) == [True] * 3
        breaker.failed("gone again", time.monotonic())
        assert await breaker.admitted()
        waiting = [asyncio.create_task(breaker.admitted()) for _ in range(3)]
        await asyncio.sleep(0)
        breaker.failed("still gone", time.monotonic())
        assert await asyncio.wait_for(asyncio.gather(*waiting), 4.0) == [False] * 3
        breaker.patience_s = 0.0
        assert not await breaker.admitted()

    asyncio.run(run())


def test_patience_ends_while_the_probe_hangs() -> None:
    async def run() -> None:
        breaker = Breaker(retry_s=60.0, patience_s=0.02)
        breaker.failed("gone", time.monotonic())
        assert await breaker.admitted()
        assert not await asyncio.wait_for(breaker.admitted(), 5.0)

    asyncio.run(run())
