"""The breaker refuses at once while a dependency is down, and probes."""

from __future__ import annotations

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
    assert breaker.is_open and not breaker.admits()
    clock.now += 0.25
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    clock.now += 0.25
    assert breaker.admits()


def test_a_probes_success_closes_and_its_failure_keeps_open() -> None:
    clock = Clock()
    breaker = Breaker(retry_s=0.25, clock=clock)
    breaker.failed("gone", clock.now)
    clock.now += 0.3
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
