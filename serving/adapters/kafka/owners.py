"""Partitions that nobody owns, in a group of static members that share cooperatively.

Such a group moves a partition in two steps: its owner gives it up and joins again, and only that second join lets it be
given on. A static member that ends in between comes back under its name without a new sharing (KIP-345), so the second
step never comes and the partition stays with nobody. A member that joins for a moment makes the group share anew.

The group is asked about by `list_groups` and what its members say is read here: librdkafka's newer calls that go to a
group's coordinator (DescribeConsumerGroups and its like) end the process by an assertion where a connection goes away
while one is open (librdkafka issue 4605), and this one is always open somewhere.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Sequence

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from serving.adapters.kafka.options import KafkaOptions, common, joining
from serving.ports_log import GroupOptions

ASK_SECONDS = 5.0
JOIN_SECONDS = 10.0
UUID_LENGTH = 36


class OwnerWatch:
    """Looks every `every_s`. Of the members the first by name acts, at the second sight of the same partitions."""

    def __init__(self, options: KafkaOptions, topics: Sequence[str], group: GroupOptions, every_s: float = 1.5) -> None:
        self._options, self._topics, self._group, self._every_s = options, tuple(topics), group, every_s
        self.mended = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owners", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; what has begun is finished within its deadline, by itself."""
        self._over.set()

    def _run(self) -> None:
        admin = AdminClient(common(self._options))
        before: frozenset[tuple[str, int]] = frozenset()
        while not self._over.wait(self._every_s):
            try:
                found = self._without_owner(admin)
                if found and found == before:
                    self._join_for_a_moment()
                    self.mended += 1
                    found = frozenset()
                before = found
            except (KafkaException, ValueError):
                before = frozenset()  # no broker answers: no news

    def _without_owner(self, admin: AdminClient) -> frozenset[tuple[str, int]]:
        """Empty where the group is moving, or another member is the one to act."""
        described = [group for group in admin.list_groups(self._group.group, ASK_SECONDS) if group.error is None]
        members = [member for group in described for member in group.members]
        ids = [member.id or "" for member in members]
        names = sorted(name[: -UUID_LENGTH - 1] for name in ids)  # the broker makes ids: name, dash, UUID
        stable = [group.state for group in described] == ["Stable"]
        if not stable or not names or names[0] != self._group.member:
            return frozenset()
        owned = {place for member in members for place in assigned_to(member.assignment or b"")}
        listed = admin.list_topics(timeout=ASK_SECONDS).topics
        every = {(topic, number) for topic in self._topics if topic in listed for number in listed[topic].partitions}
        return frozenset(every - owned)

    def _join_for_a_moment(self) -> None:
        """Nothing is read and nothing committed; what it is given goes to the others as it leaves."""
        joined = threading.Event()

        def given(consumer: Consumer, places: object) -> None:
            joined.set()
            consumer.incremental_assign([])

        passing = Consumer(joining(self._options, GroupOptions(self._group.group, self._group.assignor)))
        try:
            passing.subscribe(list(self._topics), on_assign=given)
            deadline = time.monotonic() + JOIN_SECONDS
            while not joined.is_set() and time.monotonic() < deadline and not self._over.is_set():
                passing.poll(0.1)
        finally:
            passing.close()


def assigned_to(data: bytes) -> set[tuple[str, int]]:
    """(topic, partition) of a member's assignment as the group keeps it: Kafka's consumer protocol, any version.

    version int16, then an array of topic (string) with partitions (array of int32), then what the assignor added.
    Raises ValueError where it is cut off.
    """
    try:
        return set(_assigned_to(data)) if data else set()
    except struct.error as error:
        raise ValueError(f"group assignment: cut off after {len(data)} bytes") from error


def _assigned_to(data: bytes) -> Iterator[tuple[str, int]]:
    (topics,), at = struct.unpack_from(">i", data, 2), 6
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", data, at)
        topic = data[at + 2 : at + 2 + length].decode()
        (count,) = struct.unpack_from(">i", data, at + 2 + length)
        partitions = struct.unpack_from(f">{count}i", data, at + 6 + length)
        yield from ((topic, partition) for partition in partitions)
        at += 6 + length + 4 * count
