"""A record log in memory that keeps every promise of the port; tests and one-process runs use it for Kafka.

Faults on request: `down` (nobody answers), `delete_before` (retention), `expire` (a member that went silent),
`remake` (a topic deleted and made anew). Any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Condition

from serving.clock import NS_PER_S, Clock, SystemClock
from serving.errors import LogFull, LogUnavailable, RecordTooLarge, TopicUnknown
from serving.murmur2 import partition_of
from serving.ports_log import (
    MAX_RECORD_BYTES,
    Delivery,
    GroupOptions,
    LogRecord,
    NewRecord,
    Rebalance,
    TopicPartition,
)
from serving.testing.memory_group import MemoryGroup
from serving.testing.memory_reader import MemoryConsumer, MemoryReader

RECORD_OVERHEAD = 512


class MemoryPartition:
    """Records of one partition; `start` is the offset of the oldest one kept."""

    def __init__(self) -> None:
        self.start = 0
        self.records: list[LogRecord] = []

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.start + len(self.records)

    def delete_before(self, offset: int) -> None:
        """Retention."""
        keep = max(self.start, min(offset, self.end))
        del self.records[: keep - self.start]
        self.start = keep


class MemoryLog:
    """Meets `serving.ports_log.RecordLog`."""

    def __init__(self, topics: Mapping[str, int] | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.changed = Condition()
        self._topics: dict[str, list[MemoryPartition]] = {}
        self._groups: dict[str, MemoryGroup] = {}
        self._down = False
        for name, partitions in (topics or {}).items():
            self.make(name, partitions)

    # -- the port ---------------------------------------------------------------------------------------------------

    def producer(self) -> MemoryProducer:
        """A new producer."""
        return MemoryProducer(self)

    def consumer(
        self, topics: Sequence[str], options: GroupOptions, rebalance: Rebalance | None = None
    ) -> MemoryConsumer:
        """A new member of a group."""
        with self.changed:
            group = self._groups.setdefault(options.group, MemoryGroup(self))
        return MemoryConsumer(self, group, topics, options, rebalance)

    def reader(self, positions: Mapping[TopicPartition, int]) -> MemoryReader:
        """A reader of these partitions from these offsets."""
        return MemoryReader(self, positions)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises TopicUnknown, LogUnavailable."""
        with self.changed:
            self.check_up()
            return len(self.topic(topic))

    def bounds(self, places: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, tuple[int, int]]:
        """(offset of the oldest record kept, offset the next one will get). Raises TopicUnknown, LogUnavailable."""
        with self.changed:
            self.check_up()
            parts = {place: self.find(place) for place in places}
            return {place: (part.start, part.end) for place, part in parts.items()}

    def close(self) -> None:
        """Nothing is held."""

    # -- for clients of this log, with `changed` held -----------------------------------------------------------------

    def topic(self, name: str) -> list[MemoryPartition]:
        """The partitions of a topic; TopicUnknown."""
        if name not in self._topics:
            raise TopicUnknown(f"topic {name}: no such topic", hint="lockstep topics apply")
        return self._topics[name]

    def find(self, place: TopicPartition) -> MemoryPartition:
        """One partition; TopicUnknown."""
        partitions = self.topic(place.topic)
        if not 0 <= place.partition < len(partitions):
            raise TopicUnknown(f"topic {place.topic}: it has {len(partitions)} partitions, no {place.partition}")
        return partitions[place.partition]

    def check_up(self) -> None:
        """LogUnavailable while the log is down."""
        if self._down:
            raise LogUnavailable("the log in memory is down")

    @property
    def up(self) -> bool:
        """Somebody answers."""
        return not self._down

    def write(self, record: NewRecord) -> Delivery:
        """Put a record at the end of its partition."""
        try:
            partitions = self.topic(record.topic)
            number = record.partition
            if number is None:
                number = partition_of(record.key or b"", len(partitions))
            part = self.find(TopicPartition(record.topic, number))
        except TopicUnknown as error:
            return Delivery(record, error=error)
        stamp = self.clock.monotonic_ns() // 1_000_000
        offset = part.end
        part.records.append(LogRecord(record.topic, number, offset, record.key, record.value, record.headers, stamp))
        self.changed.notify_all()
        return Delivery(record, number, offset)

    # -- faults -----------------------------------------------------------------------------------------------------

    def make(self, topic: str, partitions: int) -> None:
        """A new topic."""
        with self.changed:
            self._topics[topic] = [MemoryPartition() for _ in range(partitions)]
            self.changed.notify_all()

    def remake(self, topic: str) -> None:
        """Delete a topic, and with it what groups committed for it, and make it anew."""
        partitions = self.partitions(topic)
        with self.changed:
            for group in self._groups.values():
                group.forget(topic)
        self.make(topic, partitions)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        with self.changed:
            for group in self._groups.values():
                group.forget(topic)
            del self._topics[topic]
            self.changed.notify_all()

    def set_down(self, down: bool) -> None:
        """The broker goes, or comes back."""
        with self.changed:
            self._down = down
            self.changed.notify_all()

    def delete_before(self, place: TopicPartition, offset: int) -> None:
        """Retention deletes what lies before this offset."""
        with self.changed:
            self.find(place).delete_before(offset)
            self.changed.notify_all()

    def expire(self, consumer: MemoryConsumer) -> None:
        """The member has been silent for its session: its partitions go to others."""
        with self.changed:
            consumer.group.expire(consumer)
            self.changed.notify_all()


class MemoryProducer:
    """Meets `serving.ports_log.LogProducer`. While the log is down records wait, up to `most`."""

    def __init__(self, log: MemoryLog, most: int = 10_000, delivery_timeout_s: float = 30.0) -> None:
        self._log, self._most = log, most
        self._timeout_ns = int(delivery_timeout_s * NS_PER_S)
        self._waiting: list[tuple[int, NewRecord, Callable[[Delivery], None] | None]] = []

    def append(self, record: NewRecord, done: Callable[[Delivery], None] | None = None) -> None:
        """Queue a record. Raises LogFull, RecordTooLarge."""
        if record.size + RECORD_OVERHEAD > MAX_RECORD_BYTES:
            raise RecordTooLarge(
                f"record for {record.topic}: expected at most {MAX_RECORD_BYTES - RECORD_OVERHEAD} bytes,"
                f" got {record.size}"
            )
        if len(self._waiting) >= self._most:
            raise LogFull(f"producer: {len(self._waiting)} records wait for their acknowledgement")
        self._waiting.append((self._log.clock.monotonic_ns(), record, done))

    def poll(self, timeout_s: float = 0.0) -> None:
        """Write what waits, call what is `done`."""
        with self._log.changed:
            if not self._log.up and timeout_s > 0:
                self._log.changed.wait_for(lambda: self._log.up, timeout_s)
            up = self._log.up
            now_ns = self._log.clock.monotonic_ns()
            ready = self._waiting if up else [w for w in self._waiting if now_ns - w[0] > self._timeout_ns]
            self._waiting = [] if up else self._waiting[len(ready) :]
            late = LogUnavailable("append: no acknowledgement in time")
            reports = [
                (done, self._log.write(record) if up else Delivery(record, error=late)) for _, record, done in ready
            ]
        for done, delivery in reports:
            if done is not None:
                done(delivery)

    def flush(self, timeout_s: float) -> int:
        """Write what waits; how many could not be written."""
        self.poll(timeout_s)
        return len(self._waiting)

    def waiting(self) -> int:
        """Records queued."""
        return len(self._waiting)

    def close(self, timeout_s: float = 5.0) -> int:
        """Flush, then give up what is left."""
        left = self.flush(timeout_s)
        for _, record, done in self._waiting:
            if done is not None:
                done(Delivery(record, error=LogUnavailable(f"append to {record.topic}: given up")))
        self._waiting = []
        return left
