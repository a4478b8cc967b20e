"""The accountant's index writer: puts what is recorded into the result index, from the log, in a thread of its own.

It reads `results` and `outcomes` of the accountant's partitions once more and joins them, so the accountant neither
waits for the index nor keeps anything for it. The log is the queue: while the index is away the position stands still.

A mark in the index says how far it goes. Each turn leaves a new one and looks at the one before: is it missing or
another, then something was lost (a flush, a failover), and the partition is read again backwards, newest minute first.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.clock import NS_PER_S, Clock
from serving.errors import LockstepError, LogError, Unavailable
from serving.metrics import Metrics
from serving.ports_index import ResultIndex
from serving.ports_log import RecordLog, TopicPartition
from serving.records import ResultMessage, result_document
from serving.records.recorded import RecordedTail
from serving.roles.index_rebuild import Rebuild
from serving.roles.names import Names

logger = logging.getLogger("lockstep.index")

TURN_S = 0.1
MARK_NS = NS_PER_S
AGAIN_S = 0.5


@dataclass(slots=True)
class _Part:
    """One partition number. mark: what we left in the index last. beat: counts marks, so that no two are alike.

    at: offsets (results, outcomes) up to which everything is written; may be up to a second old.
    """

    mark: str | None = None
    beat: int = 0
    at: tuple[int, int] | None = None
    rebuild: Rebuild | None = None


class IndexWriter:
    """`assigned`, `revoked` and `close` from the accountant's thread; `start` runs the rest.

    Without `start` a caller may `step` it. metrics: lockstep_index_* of docs/metrics.md.
    """

    def __init__(
        self, index: ResultIndex, log: RecordLog, names: Names, clock: Clock, metrics: Metrics | None = None
    ) -> None:
        self._index, self._log, self._clock, self._metrics = index, log, clock, metrics
        self._results, self._outcomes = names.topic("results"), names.topic("outcomes")
        self._guard = threading.Lock()
        self._wanted: frozenset[int] = frozenset()
        self._parts: dict[int, _Part] = {}
        self._tail: RecordedTail | None = None
        self._unwritten: list[tuple[int, ResultMessage]] = []
        self._marked_ns = clock.monotonic_ns() - MARK_NS
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.counters: Counter[str] = Counter()

    # -- from the accountant ----------------------------------------------------------------------------------------

    def start(self) -> IndexWriter:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()
        return self

    def assigned(self, numbers: Iterable[int]) -> None:
        """These partition numbers are ours. Returns at once."""
        with self._guard:
            self._wanted = self._wanted | set(numbers)

    def revoked(self, numbers: Iterable[int]) -> None:
        """These are another's. Returns at once; what we still write is what the other writes too."""
        with self._guard:
            self._wanted = self._wanted - set(numbers)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        self._let_go()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = TURN_S) -> None:
        """One turn: follow, write, mark, rebuild a piece. Raises Unavailable, LogError; the next turn goes on."""
        self._follow()
        if self._tail is None:
            return
        if not self._unwritten:
            self._unwritten = self._tail.poll(0 if self._rebuilds() else timeout_s)
            for number, message in self._unwritten:
                rebuild = self._parts[number].rebuild
                if rebuild is not None:
                    rebuild.skip.add(message.posting.key)
        self._write([message for _, message in self._unwritten], fresh=True)
        wrote, self._unwritten = {number for number, _ in self._unwritten}, []
        self._mark(wrote)
        self._rebuild()

    def rebuilding(self) -> bool:
        """Something of the index is still being read back."""
        return bool(self._rebuilds())

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.step()
                self._tell("lockstep_index_up", 1)
            except Exception as error:  # noqa: BLE001 - a thread that ended would leave the index as it is, in silence
                self._failed(error)
            if not self._wanted:
                self._stop.wait(TURN_S)

    def _failed(self, error: Exception) -> None:
        self.counters["failed"] += 1
        self._tell("lockstep_index_up", 0)
        level = logging.DEBUG if isinstance(error, Unavailable | LogError) else logging.WARNING
        logger.log(level, "index: %s", error, exc_info=None if isinstance(error, LockstepError) else error)
        self._stop.wait(AGAIN_S)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Read what is ours now, each partition from where its mark in the index stands."""
        with self._guard:
            wanted = self._wanted
        if wanted == self._parts.keys():
            return
        resumes = self._tail.resumes() if self._tail is not None else {}
        if self._unwritten:  # of a partition that is about to go: its next owner writes it too
            self._write([message for _, message in self._unwritten], fresh=True)
            self._unwritten = []
        starts, parts = dict[int, tuple[int, int]](), dict[int, _Part]()
        # Asked before the first mark is left: a log that does not answer must not cost the mark of who had it.
        bounds = self._log.bounds([place for number in wanted for place in self._places(number)])
        for number in wanted:
            if number in self._parts and number in resumes:
                parts[number], starts[number] = self._parts[number], resumes[number]
            else:
                parts[number], starts[number] = self._begin(number, bounds)
        self._let_go()
        self._parts = parts
        self._tail = RecordedTail(self._log, self._results, self._outcomes, starts, self._clock) if starts else None

    def _places(self, number: int) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in (self._results, self._outcomes)]

    def _begin(self, number: int, bounds: Mapping[TopicPartition, tuple[int, int]]) -> tuple[_Part, tuple[int, int]]:
        """Where a partition that is new to us goes on: at the mark of who had it, else at the end, all read back."""
        part = _Part(mark=json.dumps({"taken": self._clock.monotonic_ns()}))
        before = self._index.exchange(self._name(number), str(part.mark))
        found = {place: bounds[place] for place in self._places(number)}
        at = _position(before)
        if at is not None and all(low <= a <= high for a, (low, high) in zip(at, found.values(), strict=True)):
            return part, at
        part.rebuild = self._new_rebuild(number, found)
        results, outcomes = (high for _, high in found.values())
        return part, (results, outcomes)

    def _mark(self, wrote: set[int]) -> None:
        """Leave a mark where something was written, and everywhere each second. One that is not ours any more tells of
        a loss, of everything or of the last moment."""
        now_ns = self._clock.monotonic_ns()
        if due := now_ns - self._marked_ns >= MARK_NS:
            assert self._tail is not None
            self._marked_ns = now_ns
            for number, at in self._tail.resumes().items():
                self._parts[number].at = at
        for number in self._parts.keys() if due else wrote:
            part = self._parts[number]
            part.beat += 1
            # A partition that is being read back has no position to go on from: whoever takes it over begins anew.
            until = None if part.rebuild is not None else part.at
            mark = json.dumps({"beat": part.beat, "at": until, "since": now_ns})
            before = self._index.exchange(self._name(number), mark)
            lost, part.mark = before != part.mark, mark
            if lost:
                logger.info("index: partition %d was lost, reading it back", number)
                self._begin_again(number, part)

    def _begin_again(self, number: int, part: _Part) -> None:
        try:
            part.rebuild = self._new_rebuild(number, self._log.bounds(self._places(number)))
        except LogError:
            part.mark = None  # the next mark finds another one, and begins again
            raise

    def _new_rebuild(self, number: int, bounds: dict[TopicPartition, tuple[int, int]]) -> Rebuild:
        self.counters["rebuilds"] += 1
        self._count("lockstep_index_rebuilds_total", 1)
        return Rebuild(self._log, TopicPartition(self._results, number), TopicPartition(self._outcomes, number), bounds,
                       self._clock)  # fmt: skip

    def _rebuild(self) -> None:
        """A piece of each partition that is being read back."""
        for part in self._rebuilds():
            assert part.rebuild is not None
            self._write(part.rebuild.next_piece(), fresh=False)
            part.rebuild.written()
            if part.rebuild.done:
                seconds = (self._clock.monotonic_ns() - part.rebuild.since_ns) / NS_PER_S
                logger.info("index: %d results read back in %.1f s", part.rebuild.results, seconds)
                part.rebuild = None

    def _rebuilds(self) -> list[_Part]:
        return [part for part in self._parts.values() if part.rebuild is not None]

    def _write(self, messages: Sequence[ResultMessage], fresh: bool) -> None:
        by_source: defaultdict[str, list[Any]] = defaultdict(list)
        for message in messages:
            if message.posting.pts_ns is not None:
                by_source[message.posting.key.source_id].append(result_document(message))
        for source_id, documents in by_source.items():
            self._index.write(source_id, documents, fresh)
            self.counters["written"] += len(documents)
            self._count("lockstep_index_written_total", len(documents))

    def _let_go(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _name(self, number: int) -> str:
        return f"index-{number}"

    def _tell(self, name: str, value: float) -> None:
        if self._metrics is not None:
            self._metrics.set(name, value)

    def _count(self, name: str, amount: int) -> None:
        if self._metrics is not None:
            self._metrics.inc(name, amount)


def _position(mark: str | None) -> tuple[int, int] | None:
    """Offsets (results, outcomes) in a mark; None where there is none that is ours."""
    try:
        at = json.loads(mark or "null")["at"]
        results, outcomes = (int(offset) for offset in at)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return results, outcomes
