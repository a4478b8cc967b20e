"""The log on a Kafka broker (`serving.ports_log.RecordLog`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from serving.adapters.kafka.bounds import KafkaBounds
from serving.adapters.kafka.consumer import KafkaConsumer
from serving.adapters.kafka.options import KafkaOptions
from serving.adapters.kafka.producer import KafkaProducer
from serving.adapters.kafka.reader import KafkaReader
from serving.ports_log import GroupOptions, Rebalance, TopicPartition

METADATA_SECONDS = 10.0


class KafkaLog:
    """Nothing connects before it is used. Clients made here are closed by whoever asked for them."""

    def __init__(self, options: KafkaOptions) -> None:
        self.options = options
        self._bounds = KafkaBounds(options)

    def producer(self) -> KafkaProducer:
        """A new producer."""
        return KafkaProducer(self.options)

    def consumer(
        self, topics: Sequence[str], options: GroupOptions, rebalance: Rebalance | None = None
    ) -> KafkaConsumer:
        """A new member of a group."""
        return KafkaConsumer(self.options, topics, options, rebalance, self._bounds)

    def reader(self, positions: Mapping[TopicPartition, int]) -> KafkaReader:
        """A reader of these partitions from these offsets."""
        return KafkaReader(self.options, positions, bounds=self._bounds)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises TopicUnknown, LogUnavailable."""
        return self._bounds.partitions(topic, METADATA_SECONDS)

    def bounds(self, places: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, tuple[int, int]]:
        """(offset of the oldest record kept, offset the next one will get). Raises TopicUnknown, LogUnavailable."""
        return self._bounds.of(places, timeout_s)

    def close(self) -> None:
        """Let go of the connection for questions."""
        self._bounds.close()
