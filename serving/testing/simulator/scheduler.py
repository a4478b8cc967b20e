"""Virtual time: events in a heap, ties broken by a seeded draw, processes that can be killed and stopped."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

NS_PER_S = 1_000_000_000
MS = 1_000_000

Action = Callable[[], None]


class Scheduler:
    """`serving.clock.Clock` and event loop in one; the same seed gives the same run. `wall_ns` may be set to jump."""

    __slots__ = ("_count", "_heap", "_now_ns", "rng", "wall_offset_ns")

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.wall_offset_ns = 0
        self._now_ns = 0
        self._count = 0
        self._heap: list[tuple[int, float, int, Action]] = []

    def monotonic_ns(self) -> int:
        """Virtual monotonic time."""
        return self._now_ns

    def wall_ns(self) -> int:
        """Virtual wall clock; jumps under F8."""
        return self._now_ns + self.wall_offset_ns

    def after(self, delay_ns: int, action: Action) -> None:
        """Do something later; events of one instant come in an order drawn by the seed."""
        self._count += 1
        heapq.heappush(self._heap, (self._now_ns + max(0, delay_ns), self.rng.random(), self._count, action))

    def run(self, until_ns: int) -> None:
        """Let everything happen up to a time."""
        while self._heap and self._heap[0][0] <= until_ns:
            self._now_ns, _, _, action = heapq.heappop(self._heap)
            action()
        self._now_ns = max(self._now_ns, until_ns)

    def between(self, low_ms: float, high_ms: float) -> int:
        """A random duration in nanoseconds."""
        return int(self.rng.uniform(low_ms, high_ms) * MS)


class Process:
    """What a supervisor starts: `start` sets up a fresh state. Killed, its plans are void; stopped, they wait."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.alive = False
        self.stopped = False
        self._life = 0
        self._waiting: list[Action] = []

    def begin(self) -> None:
        """Start, or start again, with nothing but what is on the log."""
        self.alive, self.stopped, self._waiting = True, False, []
        self._life += 1
        self.start()

    def start(self) -> None:
        """Set up a fresh state; for the subclass."""

    def died(self) -> None:
        """Tell whoever notices that the process is gone; for the subclass."""

    def after(self, delay_ns: int, action: Action) -> None:
        """Do something later, unless killed before; if stopped then, when resumed."""
        life = self._life

        def due() -> None:
            if self._life != life or not self.alive:
                return
            if self.stopped:
                self._waiting.append(action)
            else:
                action()

        self.scheduler.after(delay_ns, due)

    def mine(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callback that is void once this life of the process is over."""
        life = self._life
        return lambda value: action(value) if self._life == life and self.alive else None

    def kill(self, restart_ns: int) -> None:
        """SIGKILL; the supervisor starts it again."""
        if not self.alive:
            return
        self.alive = False
        self.died()
        life = self._life
        self.scheduler.after(restart_ns, lambda: self.begin() if self._life == life and not self.alive else None)

    def stop(self, for_ns: int) -> None:
        """SIGSTOP, and SIGCONT later: what was due meanwhile happens then, all at once."""
        if not self.alive or self.stopped:
            return
        self.stopped = True
        life = self._life

        def resume() -> None:
            if self._life != life or not self.alive:
                return
            self.stopped, waiting = False, self._waiting
            self._waiting = []
            for action in waiting:
                self.after(0, action)

        self.scheduler.after(for_ns, resume)
