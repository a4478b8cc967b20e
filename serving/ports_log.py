"""The record log as the roles see it: topics of partitions, consumer groups, positions that are committed.

`serving.adapters.kafka` meets it with a real broker, `serving.testing.memory_log` in memory; both pass
tests/contract/test_record_log.py. Three rules hold for both:

- a record counts as written when its delivery report says so, never before;
- nothing is committed but by `commit`, and a member that lost a partition cannot commit to it;
- a position never moves in silence: records deleted before they were read are reported as a range (`Lost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from serving.errors import LockstepError

Headers = tuple[tuple[str, bytes], ...]
MAX_RECORD_BYTES = 4 << 20  # max.message.bytes of our topics


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be written. partition None: by murmur2 of the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None

    def __post_init__(self) -> None:
        if self.partition is None and self.key is None:
            raise ValueError(f"NewRecord for {self.topic}: expected a key or a partition number, got neither")

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        named = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + named


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record as it was read. value None: a tombstone. timestamp_ms: the broker's append time, for display only."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def place(self) -> TopicPartition:
        """Where it lies."""
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one append: its place, or why it is not on the log."""

    record: NewRecord
    partition: int = -1
    offset: int = -1
    error: LockstepError | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed position: the next offset to read, and what was written beside it (an attempt mark, or nothing)."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """Records first .. last of a partition were deleted before they were read; reading goes on at last + 1."""

    place: TopicPartition
    first: int
    last: int

    @property
    def count(self) -> int:
        """How many offsets."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll gave, records in the order of each partition."""

    records: tuple[LogRecord, ...] = ()
    lost: tuple[Lost, ...] = ()


class Start(Enum):
    """Where a group without a committed position begins."""

    BEGINNING = "beginning"
    END = "end"


class Assignor(Enum):
    """How partitions are dealt. RANGE keeps equal partition numbers of several topics together."""

    RANGE = "range"
    COOPERATIVE_STICKY = "cooperative-sticky"


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """How a role joins its group. member: a name kept over restarts (static membership), "" for none.

    session_timeout_s: silence after which its partitions go to others. max_poll_interval_s: the same for a member that
    is connected but does not poll. gathers: records may come a tenth of a second late, many at once, which is a tenth
    of the requests for a broker; for roles that nobody waits for.
    """

    group: str
    assignor: Assignor = Assignor.RANGE
    start: Start = Start.BEGINNING
    member: str = ""
    session_timeout_s: float = 6.0
    max_poll_interval_s: float = 300.0
    gathers: bool = False


class Rebalance(Protocol):
    """Told within `poll` when partitions come and go."""

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        """These are ours now, with what was last committed (None: nothing)."""
        ...

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        """These go to another member when this returns; commits are still taken."""
        ...

    def lost(self, places: Sequence[TopicPartition]) -> None:
        """These have been another member's for a while; commits are refused."""
        ...


class LogProducer(Protocol):
    """Writes records. Idempotent, acknowledged by all in-sync replicas, in order per partition."""

    def append(self, record: NewRecord, done: Callable[[Delivery], None] | None = None) -> None:
        """Queue a record; `done` is called within `poll` or `flush`.

        Raises LogFull while the bounded queue is full (poll, then try again), RecordTooLarge, TopicUnknown.
        """
        ...

    def poll(self, timeout_s: float = 0.0) -> None:
        """Call what is `done`."""
        ...

    def flush(self, timeout_s: float) -> int:
        """Wait until all is acknowledged or failed; how many are still open."""
        ...

    def waiting(self) -> int:
        """Records queued or on their way."""
        ...

    def close(self, timeout_s: float = 5.0) -> int:
        """Flush and let go; how many records are unaccounted for."""
        ...


class LogReader(Protocol):
    """Reads partitions from given positions, without a group."""

    def poll(self, timeout_s: float, most: int = 500) -> Polled:
        """At most `most` records, as soon as there are any; nothing after timeout_s. Errors that pass by themselves
        (a broker that is away) give nothing; others raise LogUnavailable, LogTruncated, TopicUnknown."""
        ...

    def pause(self, places: Sequence[TopicPartition]) -> None:
        """Give no records of these until `resume`; membership goes on."""
        ...

    def resume(self, places: Sequence[TopicPartition]) -> None:
        """Give them again, from where they stopped."""
        ...

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Read this one from here on."""
        ...

    def position(self, place: TopicPartition) -> int:
        """The offset of the next record to be given. Commit what was worked off, not this: it runs ahead."""
        ...

    def assignment(self) -> tuple[TopicPartition, ...]:
        """What is read, sorted."""
        ...

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records between position and end, by what the broker said last."""
        ...

    def close(self) -> None:
        """Let go; a group member leaves, so that others take over at once."""
        ...


class LogConsumer(LogReader, Protocol):
    """A member of a consumer group. One thread calls it; heartbeats do not depend on that thread."""

    def commit(self, positions: Mapping[TopicPartition, Committed]) -> None:
        """Write positions, wait for the broker. Raises CommitRefused (not ours any more) or LogUnavailable."""
        ...

    def commit_later(self, positions: Mapping[TopicPartition, Committed]) -> None:
        """Write positions, wait for nothing: a network on which an answer takes long must not hold up the reading.
        What could not be written is told by `uncommitted` after a later poll."""
        ...

    def uncommitted(self) -> set[TopicPartition]:
        """Those of `commit_later` whose position was not written, since this was asked last."""
        ...

    def committed(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, Committed | None]:
        """What was committed last."""
        ...


class RecordLog(Protocol):
    """The log. Everything made by it is used by one thread at a time."""

    def producer(self) -> LogProducer:
        """A new producer."""
        ...

    def consumer(self, topics: Sequence[str], options: GroupOptions, rebalance: Rebalance | None = None) -> LogConsumer:
        """A new member of a group."""
        ...

    def reader(self, positions: Mapping[TopicPartition, int]) -> LogReader:
        """A reader of these partitions from these offsets."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises TopicUnknown, LogUnavailable."""
        ...

    def bounds(self, places: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, tuple[int, int]]:
        """(offset of the oldest record kept, offset the next one will get) of each, asked for together; waits for
        nothing that is being read. Raises TopicUnknown, LogUnavailable. Any thread."""
        ...

    def close(self) -> None:
        """Let go of what the log itself holds."""
        ...


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is, or shall be: settings by Kafka's names, values as text."""

    partitions: int
    replication: int
    settings: Mapping[str, str]


class TopicAdmin(Protocol):
    """Looks at topics and changes them. Every call raises LogUnavailable where no broker answers, LogError else."""

    def brokers(self) -> int:
        """How many brokers there are."""
        ...

    def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """Those of the names that exist."""
        ...

    def create(self, name: str, state: TopicState) -> None:
        """Make a topic."""
        ...

    def grow(self, name: str, partitions: int) -> None:
        """Raise the number of partitions; keys move to others."""
        ...

    def alter(self, name: str, settings: Mapping[str, str]) -> None:
        """Change these settings and no other."""
        ...
