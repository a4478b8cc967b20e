"""A consumer group of the log in memory: who reads what, and who may commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from serving.clock import NS_PER_S
from serving.errors import CommitRefused
from serving.ports_log import Committed, TopicPartition

if TYPE_CHECKING:
    from serving.testing.memory_log import MemoryLog
    from serving.testing.memory_reader import MemoryConsumer


class MemoryGroup:
    """All methods with the log's `changed` held. A partition changes hands when its old owner has let go of it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.members: list[MemoryConsumer] = []
        self.owner: dict[TopicPartition, MemoryConsumer] = {}
        self.committed: dict[TopicPartition, Committed] = {}
        self.fenced: list[MemoryConsumer] = []

    def join(self, member: MemoryConsumer) -> None:
        """A new member; one of the same name takes over what the other had (static membership)."""
        name = member.options.member
        for other in [m for m in self.members if name and m.options.member == name]:
            self.members.remove(other)
            self.fenced.append(other)
            for place in [p for p, owner in self.owner.items() if owner is other]:
                del self.owner[place]
        self.members.append(member)

    def leave(self, member: MemoryConsumer) -> None:
        """In good order."""
        if member in self.members:
            self.members.remove(member)
        for place in [p for p, owner in self.owner.items() if owner is member]:
            del self.owner[place]

    expire = leave  # what it had is lost to it: it finds out at its next poll

    def expire_silent(self) -> None:
        """Members that have not polled for too long."""
        now_ns = self._log.clock.monotonic_ns()
        for member in list(self.members):
            if now_ns - member.polled_ns > member.options.max_poll_interval_s * NS_PER_S:
                self.expire(member)

    def share(self, member: MemoryConsumer) -> set[TopicPartition]:
        """What a member shall read (range: neighbours, equal numbers of all topics together)."""
        mine: set[TopicPartition] = set()
        for topic in member.topics:
            members = [m for m in self.members if topic in m.topics]
            count, place = len(self._log.topic(topic)), members.index(member)
            each, more = divmod(count, len(members))
            first = place * each + min(place, more)
            mine |= {TopicPartition(topic, n) for n in range(first, first + each + (place < more))}
        return mine

    def forget(self, topic: str) -> None:
        """The topic was deleted."""
        self.committed = {place: at for place, at in self.committed.items() if place.topic != topic}

    def commit(self, member: MemoryConsumer, positions: Mapping[TopicPartition, Committed]) -> None:
        """Raises CommitRefused where one of them is not the member's."""
        foreign = [place for place in positions if self.owner.get(place) is not member]
        if foreign:
            raise CommitRefused(f"group {member.options.group}: {foreign} are not this member's")
        self.committed.update(positions)
