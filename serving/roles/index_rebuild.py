"""Reading a partition back for the index, backwards: the newest minute stands in it first, all of it at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from serving.clock import Clock
from serving.errors import LogUnavailable
from serving.frames import LedgerKey
from serving.ports_log import LogRecord, RecordLog, TopicPartition
from serving.records import ResultMessage
from serving.records.recorded import RecordedJoin, joined

FIRST_PIECE, LARGEST_PIECE = 1000, 5000
PIECE_SECONDS = 20.0


@dataclass(slots=True)
class _Back:
    """One topic: read down to `at`, never below `low`. oldest_ms: append time of the oldest record read so far."""

    place: TopicPartition
    low: int
    at: int
    oldest_ms: float = float("inf")

    @property
    def done(self) -> bool:
        return self.at <= self.low


class Rebuild:
    """One partition number. bounds: what the log holds of both topics now; what comes later is the tail's.

    skip: keys that the tail has written since, which must not be overwritten by what was known before.
    """

    def __init__(
        self,
        log: RecordLog,
        results: TopicPartition,
        outcomes: TopicPartition,
        bounds: Mapping[TopicPartition, tuple[int, int]],
        clock: Clock,
    ) -> None:
        self._log, self._join = log, RecordedJoin(clock, newest_first=True)
        self._results, self._outcomes = (_Back(place, *bounds[place]) for place in (results, outcomes))
        self._size = FIRST_PIECE
        self._waiting: list[ResultMessage] = []
        self.since_ns = clock.monotonic_ns()
        self.skip: set[LedgerKey] = set()
        self.results = 0

    @property
    def done(self) -> bool:
        """All results are read, and all that was recorded since the oldest of them came."""
        results, outcomes = self._results, self._outcomes
        if not results.done or self._waiting:
            return False
        return outcomes.done or outcomes.oldest_ms < results.oldest_ms or results.oldest_ms == float("inf")

    def next_piece(self) -> list[ResultMessage]:
        """The next older results that are recorded. The same again until `written`. Raises LogUnavailable.

        `outcomes` is read first and further: a key is recorded after its candidate came, so what lies behind it in time
        is decided. Append times only pace the two; nothing is decided by them.
        """
        if not self._waiting and not self.done:
            back = self._behind()
            for record in self._read(back):
                message = joined(self._join, record, self._results.place.topic)
                if isinstance(message, ResultMessage):
                    self._waiting.append(message)
        return [message for message in self._waiting if message.posting.key not in self.skip]

    def written(self) -> None:
        """What `next_piece` gave is in the index."""
        self.results += len(self._waiting)
        self._waiting = []

    def _behind(self) -> _Back:
        if self._outcomes.done or self._results.done:
            return self._results if self._outcomes.done else self._outcomes
        return self._outcomes if self._outcomes.oldest_ms >= self._results.oldest_ms else self._results

    def _read(self, back: _Back) -> list[LogRecord]:
        """The piece before `at`, newest first. Compaction may have left holes in it."""
        start = max(back.low, back.at - self._size)
        self._size = min(LARGEST_PIECE, 2 * self._size)
        reader, records = self._log.reader({back.place: start}), list[LogRecord]()
        deadline = time.monotonic() + PIECE_SECONDS
        try:
            while reader.position(back.place) < back.at:
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"{back.place}: could not be read back within {PIECE_SECONDS:.0f} s")
                records += reader.poll(0.2, LARGEST_PIECE).records
        finally:
            reader.close()
        found = [record for record in records if record.offset < back.at]
        back.at = start
        if found:
            back.oldest_ms = found[0].timestamp_ms
        found.reverse()
        return found
