"""An inference server and an index in memory, with the ways they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum

from serving.frames import LedgerKey
from serving.testing.simulator.scheduler import Scheduler


class Answer(Enum):
    """How an inference call ends. HANG: not at all. EXIT: it takes the worker with it."""

    OK = "ok"
    ERROR = "error"
    BROKEN = "broken"  # not the shape that was promised
    AWAY = "away"  # connection refused
    HANG = "hang"
    EXIT = "exit"


class FakeTriton:
    """Answers after 20 +/- 10 ms, unless told otherwise. bad: what it does with certain pictures, by index."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.up = True
        self.extra_ms = 0.0
        self.factor = 1.0
        self.error_share = 0.0
        self.bad: dict[tuple[str, int], Answer] = {}
        self.ended: Counter[tuple[str, int]] = Counter()  # processes ended or hung, by picture

    def infer(self, source_id: str, index: int, done: Callable[[Answer], None]) -> Answer | None:
        """HANG and EXIT are returned at once; every other answer comes by `done`, later."""
        rng = self._scheduler.rng
        if not self.up:
            self._scheduler.after(self._scheduler.between(0.2, 1), lambda: done(Answer.AWAY))
            return None
        answer = self.bad.get((source_id, index), Answer.OK)
        if answer in (Answer.HANG, Answer.EXIT):
            self.ended[source_id, index] += 1
            return answer
        if answer is Answer.OK and rng.random() < self.error_share:
            answer = Answer.ERROR
        latency = self._scheduler.between(10, 30) * self.factor + self.extra_ms * 1e6
        self._scheduler.after(int(latency), lambda: done(answer if self.up else Answer.AWAY))
        return None


class FakeRedis:
    """The index of results; `generation` rises whenever it lost what it had."""

    def __init__(self) -> None:
        self.up = True
        self.generation = 0
        self.keys: set[LedgerKey] = set()

    def add(self, key: LedgerKey) -> bool:
        """False while down."""
        if self.up:
            self.keys.add(key)
        return self.up

    def flush(self) -> None:
        """FLUSHALL, or a failover that loses everything."""
        self.keys.clear()
        self.generation += 1
