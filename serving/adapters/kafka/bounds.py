"""Where partitions begin and end now, asked for many at once and beside what is being read.

A broker answers the requests of one connection in turn, and a consumer's fetch lies open for up to
`fetch.wait.max.ms`: asked there, two topics of twelve partitions take twelve seconds, here some milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as RdPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from serving.adapters.kafka.errors import translated
from serving.adapters.kafka.options import KafkaOptions, common
from serving.errors import LogUnavailable, TopicUnknown
from serving.ports_log import TopicPartition

SLACK_SECONDS = 5.0  # librdkafka says itself that its time is over
NEW_SECONDS = 1.0
# What this client knows of who leads a partition is missing or out of date: it has moved, or its broker began anew.
_LEADERS = frozenset(
    {
        KafkaError._NOENT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    }
)


class KafkaBounds:
    """One connection for such questions, made at the first one. Any thread."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._admin: AdminClient | None = None

    def partitions(self, topic: str, timeout_s: float) -> int:
        """How many partitions a topic has. Raises TopicUnknown, LogUnavailable."""
        try:
            found = self._connected().list_topics(topic, timeout=timeout_s).topics[topic]
        except KafkaException as error:
            raise LogUnavailable(
                f"{self._options.bootstrap}: no broker answers ({error.args[0].name()})", hint="is Kafka running?"
            ) from error
        if found.error is not None:
            raise translated(found.error, f"topic {topic}")
        if not found.partitions:
            raise TopicUnknown(f"topic {topic}: no such topic", hint="lockstep topics apply")
        return len(found.partitions)

    def of(self, places: Iterable[TopicPartition], timeout_s: float) -> dict[TopicPartition, tuple[int, int]]:
        """(offset of the oldest record kept, offset the next one will get) of each. Raises TopicUnknown,
        LogUnavailable."""
        places = list(places)
        begun = time.monotonic()
        while True:
            left_s = max(0.1, begun + timeout_s - time.monotonic())
            try:
                if (found := self._asked(places, left_s)) is not None:
                    return found
            except KafkaException as error:
                if error.args[0].code() not in _LEADERS:
                    raise translated(error, f"bounds of {_named(places)}") from error
                self._check_there(places, left_s, time.monotonic() - begun < min(timeout_s, NEW_SECONDS))
            if time.monotonic() - begun >= timeout_s:
                raise LogUnavailable(f"bounds of {_named(places)}: no answer within {timeout_s:g} s")
            time.sleep(0.05)

    def _asked(self, places: list[TopicPartition], timeout_s: float) -> dict[TopicPartition, tuple[int, int]] | None:
        """None: nobody answered."""
        if not places:
            return {}
        specs = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        asked = [
            self._connected().list_offsets({RdPartition(*place): spec for place in places}, request_timeout=timeout_s)
            for spec in specs
        ]
        found: dict[TopicPartition, list[int]] = {place: [] for place in places}
        try:
            for answers in asked:
                for part, future in answers.items():
                    offset = future.result(timeout_s + SLACK_SECONDS).offset
                    if offset < 0:  # how librdkafka says that its time was over, or that the connection was lost
                        return None
                    found[TopicPartition(part.topic, part.partition)].append(offset)
        except TimeoutError:  # this process stood still itself
            return None
        return {place: (low, high) for place, (low, high) in found.items()}

    def _check_there(self, places: list[TopicPartition], timeout_s: float, just_begun: bool) -> None:
        """What is known of the leaders is out of date, or there is no such partition: this asks the brokers anew. Of
        several brokers one may hear of a new partition a little later than another."""
        for topic in sorted({place.topic for place in places}):
            count = self.partitions(topic, timeout_s)
            beyond = [place.partition for place in places if place.topic == topic and place.partition >= count]
            if beyond and not just_begun:
                raise TopicUnknown(f"topic {topic}: it has {count} partitions, no {beyond[0]}")

    def _connected(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(common(self._options))
        return self._admin

    def close(self) -> None:
        """Let go of the connection."""
        self._admin = None


def _named(places: list[TopicPartition]) -> str:
    first = f"{places[0].topic}/{places[0].partition}"
    return first if len(places) == 1 else f"{first} and {len(places) - 1} more"
