"""A log in memory: topics of partitions, consumer groups with generations, and the ways a broker fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serving.testing.simulator.scheduler import NS_PER_S, Action, Process, Scheduler

SESSION_NS = 6 * NS_PER_S
RETENTION_NS = 6 * 3600 * NS_PER_S


@dataclass(slots=True)
class _Partition:
    records: list[Any] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)  # by the broker's wall clock
    times: list[int] = field(default_factory=list)  # when it was, for the checker
    start: int = 0
    readers: list[Action] = field(default_factory=list)


class FakeLog:
    """append gives None while the broker is down or its disk is full; readers are woken when there is more to read."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._partitions: defaultdict[tuple[str, int], _Partition] = defaultdict(_Partition)
        self.up = True
        self.disk_full = False
        self.lose_acks = False
        self.refused = 0

    def append(self, topic: str, partition: int, record: Any) -> int | None:
        """The record's offset once it is safe; None if it was not written, or its acknowledgement got lost."""
        if not self.up or self.disk_full:
            self.refused += 1
            return None
        part = self._partitions[topic, partition]
        part.records.append(record)
        part.stamps.append(self._scheduler.wall_ns())
        part.times.append(self._scheduler.monotonic_ns())
        self._wake(part)
        if self.lose_acks and self._scheduler.rng.random() < 0.2:
            return None
        return len(part.records) - 1

    def read(self, topic: str, partition: int, position: int, limit: int = 500) -> tuple[int, list[Any]]:
        """(offset of the first, records from `position` on); nothing while down. Deleted records are passed over."""
        part = self._partitions[topic, partition]
        first = max(position, part.start)
        return (first, part.records[first : first + limit]) if self.up else (position, [])

    def end(self, topic: str, partition: int) -> int:
        """The offset the next record will get."""
        return len(self._partitions[topic, partition].records)

    def subscribe(self, topic: str, partition: int, wake: Action) -> None:
        """Call `wake` when there may be something to read."""
        self._partitions[topic, partition].readers.append(wake)

    def unsubscribe(self, topic: str, partition: int, wake: Action) -> None:
        """No more wake-ups."""
        readers = self._partitions[topic, partition].readers
        if wake in readers:
            readers.remove(wake)

    def set_up(self, up: bool) -> None:
        """The broker goes or comes back."""
        self.up = up
        if up:
            self.wake_all()

    def wake_all(self) -> None:
        """After an outage everybody looks."""
        for part in list(self._partitions.values()):
            self._wake(part)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Retention by size."""
        part = self._partitions[topic, partition]
        part.start = max(part.start, min(offset, len(part.records)))

    def clean_by_time(self) -> None:
        """Retention by time, judged by the wall clock as brokers do; stamps are the broker's own."""
        horizon = self._scheduler.wall_ns() - RETENTION_NS
        for part in self._partitions.values():
            while part.start < len(part.stamps) and part.stamps[part.start] < horizon:
                part.start += 1

    def all(self, topic: str, partition: int) -> list[Any]:
        """Every record ever written, for the checker."""
        return self._partitions[topic, partition].records

    def times(self, topic: str, partition: int) -> list[int]:
        """When each record was written."""
        return self._partitions[topic, partition].times

    def _wake(self, part: _Partition) -> None:
        for reader in part.readers:
            reader()


class Consumer:
    """Reads one partition in order for a process, soon after there is something to read."""

    def __init__(self, process: Process, log: FakeLog, topic: str, partition: int, position: int, handle: Any) -> None:
        self._process, self._log, self._handle = process, log, handle
        self.topic, self.partition, self.position = topic, partition, position
        self._planned = self._closed = False
        log.subscribe(topic, partition, self.wake)
        self.wake()

    def wake(self) -> None:
        """Read soon, once."""
        if not self._planned:
            self._planned = True
            self._process.after(self._process.scheduler.between(0.5, 4), self.poll)

    def poll(self) -> None:
        """Hand on what there is: handle(offset, record, at_end)."""
        self._planned = False
        if self._closed:
            return
        first, records = self._log.read(self.topic, self.partition, self.position)
        for n, record in enumerate(records):
            if self._is_closed():  # by what the record before led to
                return
            self.position = first + n + 1
            self._handle(first + n, record, n == len(records) - 1)

    def _is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Stop reading."""
        self._closed = True
        self._log.unsubscribe(self.topic, self.partition, self.wake)


@dataclass(slots=True)
class Committed:
    """A committed offset with its metadata: (offset, attempt) of a record being tried, or None."""

    offset: int = 0
    trying: tuple[int, int] | None = None


class Group:
    """One consumer group: partitions are dealt to members; a commit of an old generation is refused."""

    def __init__(self, scheduler: Scheduler, partitions: int) -> None:
        self._scheduler = scheduler
        self._members: dict[str, Any] = {}
        self.committed = [Committed() for _ in range(partitions)]
        self.owner: list[str | None] = [None] * partitions
        self.generation = 0
        self.refused = 0
        self._since = [0] * partitions
        self.watch: Callable[[int, int], None] = lambda partition, offset: None
        self._planned = False

    @property
    def names(self) -> set[str]:
        """The members."""
        return set(self._members)

    def join(self, name: str, member: Any) -> None:
        """A member joins; one that comes back under its name within the session keeps its place (static membership)."""
        self._members[name] = member
        if name in self.owner:
            self.generation += 1
            kept = [p for p, owner in enumerate(self.owner) if owner == name]
            for p in kept:
                self._since[p] = self.generation
            member.assigned(kept, self.generation)
        else:
            self._plan()

    def leave(self, name: str) -> None:
        """A member leaves in good order."""
        if self._members.pop(name, None) is not None:
            self._plan()

    def silent(self, name: str) -> None:
        """A member was killed or stopped: it is out when its session ends, unless it is back by then."""
        member = self._members.get(name)

        def expire() -> None:
            if self._members.get(name) is member and member is not None and (not member.alive or member.stopped):
                del self._members[name]
                self._plan()

        self._scheduler.after(SESSION_NS, expire)

    def commit(self, name: str, generation: int, partition: int, committed: Committed) -> bool:
        """False, and nothing done, if the partition is no longer this member's in this generation."""
        if self.owner[partition] != name or name not in self._members or generation < self._since[partition]:
            self.refused += 1
            return False
        self.committed[partition] = committed
        self.watch(partition, committed.offset)
        return True

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._scheduler.after(self._scheduler.between(50, 300), self._rebalance)

    def _rebalance(self) -> None:
        self._planned = False
        self.generation += 1
        names = sorted(self._members)
        old = list(self.owner)
        self.owner = [names[p % len(names)] if names else None for p in range(len(self.owner))]
        for p, (before, now) in enumerate(zip(old, self.owner, strict=True)):
            if before != now:
                self._since[p] = self.generation
                if before in self._members:
                    self._members[before].revoked(p)
        for name in names:
            gained = [p for p, now in enumerate(self.owner) if now == name and old[p] != name]
            if gained:
                self._members[name].assigned(gained, self.generation)
