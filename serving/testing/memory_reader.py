"""Readers of the log in memory: by positions, and as a member of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from serving.errors import CommitRefused, LogTruncated, LogUnavailable, MemberFenced
from serving.ports_log import Committed, GroupOptions, LogRecord, Lost, Polled, Rebalance, Start, TopicPartition

if TYPE_CHECKING:
    from serving.testing.memory_group import MemoryGroup
    from serving.testing.memory_log import MemoryLog


class MemoryReader:
    """Meets `serving.ports_log.LogReader`."""

    def __init__(self, log: MemoryLog, positions: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._next = dict(positions)
        self._paused: set[TopicPartition] = set()
        self._told_lost: list[Lost] = []

    def poll(self, timeout_s: float, most: int = 500) -> Polled:
        """What there is, as soon as there is something."""
        with self._log.changed:
            self._log.changed.wait_for(self._has_something, timeout_s)
            if not self._log.up:
                return Polled()
            records: list[LogRecord] = []
            for place in sorted(self._next):
                records += self._read(place, most - len(records))
            lost, self._told_lost = tuple(self._told_lost), []
            return Polled(tuple(records), lost)

    def pause(self, places: Sequence[TopicPartition]) -> None:
        """Give no records of these until `resume`."""
        self._paused |= set(self._ours(places))

    def resume(self, places: Sequence[TopicPartition]) -> None:
        """Give them again."""
        self._paused -= set(self._ours(places))

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Read this one from here on."""
        self._ours([place])
        self._next[place] = offset

    def position(self, place: TopicPartition) -> int:
        """The offset of the next record to be given."""
        self._ours([place])
        return self._next[place]

    def assignment(self) -> tuple[TopicPartition, ...]:
        """What is read, sorted."""
        return tuple(sorted(self._next))

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records between position and end."""
        with self._log.changed:
            return {place: max(0, self._log.find(place).end - at) for place, at in self._next.items()}

    def close(self) -> None:
        """Let go."""
        self._next.clear()

    # -- inside, with `changed` held ----------------------------------------------------------------------------------

    def _ours(self, places: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
        for place in places:
            if place not in self._next:
                raise ValueError(f"{place.topic}/{place.partition} is not read here; {self.assignment()} are")
        return places

    def _has_something(self) -> bool:
        if not self._log.up:
            return False
        return any(p not in self._paused and self._log.find(p).end != at for p, at in self._next.items())

    def _read(self, place: TopicPartition, most: int) -> list[LogRecord]:
        if place in self._paused or most <= 0:
            return []
        self._next[place] = self._within(place, self._next[place])
        part = self._log.find(place)
        at = self._next[place] - part.start
        records = part.records[at : at + most]
        self._next[place] += len(records)
        return records

    def _within(self, place: TopicPartition, position: int) -> int:
        part = self._log.find(place)
        if position > part.end:
            raise LogTruncated(
                f"{place.topic}/{place.partition}: our position is {position}, the log ends at {part.end}: the topic"
                " was deleted and made anew, or lost its end",
                hint="if that was meant, start the role under a new group name",
            )
        if position < part.start:
            self._told_lost.append(Lost(place, position, part.start - 1))
        return max(position, part.start)


class MemoryConsumer(MemoryReader):
    """Meets `serving.ports_log.LogConsumer`."""

    def __init__(
        self,
        log: MemoryLog,
        group: MemoryGroup,
        topics: Sequence[str],
        options: GroupOptions,
        rebalance: Rebalance | None,
    ) -> None:
        super().__init__(log, {})
        self.group, self.topics, self.options = group, tuple(topics), options
        self._rebalance = rebalance
        self._joined = self._closed = False
        self._uncommitted: set[TopicPartition] = set()
        self.polled_ns = log.clock.monotonic_ns()

    def poll(self, timeout_s: float, most: int = 500) -> Polled:
        """What there is; partitions come and go here."""
        self._settle()
        polled = super().poll(timeout_s, most)
        self.polled_ns = self._log.clock.monotonic_ns()
        return polled

    def commit(self, positions: Mapping[TopicPartition, Committed]) -> None:
        """Write positions. Raises CommitRefused, LogUnavailable."""
        with self._log.changed:
            self._log.check_up()
            if any(place not in self._next for place in positions):
                raise CommitRefused(f"group {self.options.group}: {list(positions)} are not all this member's")
            self.group.commit(self, positions)

    def commit_later(self, positions: Mapping[TopicPartition, Committed]) -> None:
        """Write positions; those that could not be are told by `uncommitted`."""
        for place, position in positions.items():
            try:
                self.commit({place: position})
            except (CommitRefused, LogUnavailable):
                self._uncommitted.add(place)

    def uncommitted(self) -> set[TopicPartition]:
        """Those of `commit_later` whose position was not written."""
        found, self._uncommitted = self._uncommitted, set()
        return found

    def committed(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, Committed | None]:
        """What was committed last."""
        with self._log.changed:
            self._log.check_up()
            return {place: self.group.committed.get(place) for place in places}

    def close(self) -> None:
        """Leave the group."""
        if self._closed:
            return
        self._closed = True
        if self._next:
            self._tell(lambda r: r.revoked(self.assignment()))
        with self._log.changed:
            self.group.leave(self)
            self._next.clear()
            self._log.changed.notify_all()

    def _has_something(self) -> bool:
        if self._log.up and self._joined:
            share = self.group.share(self) if self in self.group.members else set()
            free = {place for place in share if place not in self.group.owner}
            if free or share != set(self._next) & share or set(self._next) - share:
                return True
        return super()._has_something()

    def _settle(self) -> None:
        """What was taken from us, what we shall give, what is free for us; each told outside the lock."""
        with self._log.changed:
            if not self._log.up:
                return
            self.polled_ns = self._log.clock.monotonic_ns()
            self.group.expire_silent()
            if self in self.group.fenced:
                raise MemberFenced(f"group {self.options.group}: another process has joined as {self.options.member}")
            gone = [place for place in self._next if self.group.owner.get(place) is not self]
            for place in gone:
                del self._next[place]
            if self not in self.group.members:
                self.group.join(self)
                self._joined = True
                self._log.changed.notify_all()
            give = sorted(set(self._next) - self.group.share(self))
        if gone:
            self._tell(lambda r: r.lost(gone))
        if give:
            self._tell(lambda r: r.revoked(give))
        with self._log.changed:
            for place in give:
                self.group.owner.pop(place, None)
                self._next.pop(place, None)
            take = [p for p in sorted(self.group.share(self)) if p not in self.group.owner]
            committed = {place: self.group.committed.get(place) for place in take}
            for place in take:
                self.group.owner[place] = self
                self._paused.discard(place)
                self._next[place] = self._begin(place, committed[place])
            self._log.changed.notify_all()
        if take:
            self._tell(lambda r: r.assigned(committed))

    def _begin(self, place: TopicPartition, committed: Committed | None) -> int:
        part = self._log.find(place)
        if committed is None:
            return part.start if self.options.start is Start.BEGINNING else part.end
        return self._within(place, committed.offset)

    def _tell(self, tell: Callable[[Rebalance], None]) -> None:
        if self._rebalance is not None:
            tell(self._rebalance)
