"""Partitions that nobody owns, in a group of static members that share cooperatively.

Such a group moves a partition in two steps: its owner gives it up and joins again, and only that second join lets it be
given on. A static member that ends in between comes back under its name without a new sharing (KIP-345), so the second
step never comes and the partition stays with nobody. A member that joins for a moment makes the group share anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from serving.adapters.kafka.options import KafkaOptions, common, joining
from serving.ports_log import GroupOptions

ASK_SECONDS = 5.0
JOIN_SECONDS = 10.0


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
            except (KafkaException, TimeoutError):
                before = frozenset()  # no broker answers: no news

    def _without_owner(self, admin: AdminClient) -> frozenset[tuple[str, int]]:
        """Empty where the group is moving, or another member is the one to act."""
        answer = admin.describe_consumer_groups([self._group.group], request_timeout=ASK_SECONDS)
        described = answer[self._group.group].result(2 * ASK_SECONDS)
        names = sorted(member.group_instance_id or "" for member in described.members)
        if described.state is not ConsumerGroupState.STABLE or not names or names[0] != self._group.member:
            return frozenset()
        owned = {
            (place.topic, place.partition)
            for member in described.members
            for place in (member.assignment.topic_partitions if member.assignment else ())
        }
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
