"""The record log on Kafka; the only importer of confluent_kafka."""

from serving.adapters.kafka.log import KafkaLog
from serving.adapters.kafka.options import KafkaOptions
from serving.adapters.kafka.topics import KafkaTopics

__all__ = ["KafkaLog", "KafkaOptions", "KafkaTopics"]
