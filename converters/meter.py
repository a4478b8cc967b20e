"""Progress for people: stage, count, rate and time left, at most one line a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from serving.types import Array

T = TypeVar("T")
Say = Callable[[str], None]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Meter:
    """Says how far one stage is. `total` is in samples; `clock` in seconds."""

    def __init__(self, say: Say, stage: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._stage, self._total, self._clock = say, stage, total, clock
        self._done, self._started = 0, clock()
        self._told = self._started

    def add(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        now = self._clock()
        if now - self._told >= 1.0 and self._done < self._total:
            self._told = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            self._say(f"{self._stage}: {self._done}/{self._total}, {rate:.1f}/s, {left:.0f} s left")

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Count items as they are used."""
        for item in items:
            yield item
            self.add()

    def counting(self, run: Run) -> Run:
        """`run` with its batch rows counted."""

        def counted(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs = run(inputs)
            self.add(len(next(iter(inputs.values()))))
            return outputs

        return counted
