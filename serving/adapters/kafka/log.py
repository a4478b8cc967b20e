"""The log on a Kafka broker (`serving.ports_log.RecordLog`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from serving.adapters.kafka.consumer import KafkaConsumer
from serving.adapters.kafka.errors import translated
from serving.adapters.kafka.options import KafkaOptions, common
from serving.adapters.kafka.producer import KafkaProducer
from serving.adapters.kafka.reader import KafkaReader
from serving.errors import LogUnavailable, TopicUnknown
from serving.ports_log import GroupOptions, Rebalance, TopicPartition

METADATA_SECONDS = 10.0


class KafkaLog:
    """Nothing connects before it is used. Clients made here are closed by whoever asked for them."""

    def __init__(self, options: KafkaOptions) -> None:
        self.options = options
        self._admin: AdminClient | None = None

    def producer(self) -> KafkaProducer:
        """A new producer."""
        return KafkaProducer(self.options)

    def consumer(
        self, topics: Sequence[str], options: GroupOptions, rebalance: Rebalance | None = None
    ) -> KafkaConsumer:
        """A new member of a group."""
        return KafkaConsumer(self.options, topics, options, rebalance)

    def reader(self, positions: Mapping[TopicPartition, int]) -> KafkaReader:
        """A reader of these partitions from these offsets."""
        return KafkaReader(self.options, positions)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises TopicUnknown, LogUnavailable."""
        if self._admin is None:
            self._admin = AdminClient(common(self.options))
        try:
            found = self._admin.list_topics(topic, timeout=METADATA_SECONDS).topics[topic]
        except KafkaException as error:
            raise LogUnavailable(
                f"{self.options.bootstrap}: no broker answers ({error.args[0].name()})", hint="is Kafka running?"
            ) from error
        if found.error is not None:
            raise translated(found.error, f"topic {topic}")
        if not found.partitions:
            raise TopicUnknown(f"topic {topic}: no such topic", hint="lockstep topics apply")
        return len(found.partitions)

    def close(self) -> None:
        """Let go of the metadata connection."""
        self._admin = None
