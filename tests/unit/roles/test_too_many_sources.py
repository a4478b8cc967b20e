"""200 live sources on a worker that can do the frames of five: shed fairly, said so, nothing falls over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from worker_support import NAMES, Model, System

from serving.ports_log import TopicPartition
from serving.roles.jobs import WorkerSettings
from serving.types import InferRequest, InferResponse

SOURCES, PARTITIONS, ROUNDS = 200, 12, 48
EVERY_NS, CALL_NS = 40_000_000, 40_000_000  # 25 frames a second each; 5 frames a call, 125 a second in all


class Slow(Model):
    """As long as it takes."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._system = system

    def __call__(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        self._system.clock.advance(CALL_NS)
        return super().__call__(requests)


def written(system: System) -> int:
    return sum(system.log.find(TopicPartition(NAMES.topic("results"), n)).end for n in range(PARTITIONS))


def test_200_sources_where_five_would_fit_are_shed_fairly() -> None:
    system = System(PARTITIONS)
    system.model = Slow(system)
    names = [f"cam-{n}" for n in range(SOURCES)]
    for name in names:
        system.claim(name)
    settings = WorkerSettings(max_batch=5)
    worker = system.worker(settings=settings)
    most_open, behind = 0, list[int]()
    for number in range(ROUNDS):
        due_ns = system.clock.monotonic_ns() + EVERY_NS
        for name in names:
            system.frames(name, [number])
        while system.clock.monotonic_ns() < due_ns:
            worker.step(0.0)
            worker.analyst.turn()
            most_open = max(most_open, sum(part.progress.open for part in worker._parts.values()))
        behind.append(sum(worker._consumer.lag().values()))
    third = ROUNDS // 3
    assert max(behind) <= 6 * SOURCES, "max_age is three frames of each; a round and what a poll left come to it"
    assert max(behind[-third:]) <= max(behind[third:-third]) + SOURCES, (behind, "it does not grow")
    system.until(lambda: written(system) >= SOURCES * ROUNDS, worker, step_ms=40)
    ends = system.ends()
    reasons = Counter(ends.values())
    assert reasons.keys() <= {"result", "stale", "overload"} and sum(reasons.values()) == SOURCES * ROUNDS
    assert reasons["result"] >= 0.8 * 5 * ROUNDS, reasons
    served = Counter(source for (source, _), end in ends.items() if end == "result")
    assert max(served.values()) - min(served[name] for name in names) <= 2, served
    assert most_open <= PARTITIONS * (settings.in_flight + 500), "what one poll gave, and no more"
    exposition = worker.monitor.metrics.exposition().decode()
    assert 'reason="stale"' in exposition or 'reason="overload"' in exposition
