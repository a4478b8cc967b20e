"""Topics of a Kafka cluster: what is there, and how it is changed (`serving.topics` decides)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from serving.adapters.kafka.errors import translated
from serving.adapters.kafka.options import KafkaOptions, common
from serving.errors import LogUnavailable
from serving.ports_log import TopicState

TIMEOUT_SECONDS = 15.0


class KafkaTopics:
    """Meets `serving.ports_log.TopicAdmin`."""

    def __init__(self, options: KafkaOptions, timeout_s: float = TIMEOUT_SECONDS) -> None:
        self._options, self._timeout_s = options, timeout_s
        self._admin = AdminClient(common(options))

    def brokers(self) -> int:
        """How many brokers answer. Raises LogUnavailable."""
        return len(self._metadata().brokers)

    def describe(self, names: Sequence[str]) -> dict[str, TopicState]:
        """Those of the names that exist, with every setting as it is in effect."""
        topics = self._metadata().topics
        there = [name for name in names if name in topics and topics[name].partitions]
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
        answers = self._admin.describe_configs(resources, request_timeout=self._timeout_s) if resources else {}
        states = {}
        for resource, future in answers.items():
            entries = _result(future, f"settings of {resource.name}")
            settings = {name: str(entry.value) for name, entry in entries.items()}
            partitions = topics[resource.name].partitions
            states[resource.name] = TopicState(len(partitions), len(partitions[0].replicas), settings)
        return states

    def create(self, name: str, state: TopicState) -> None:
        """Make a topic; it can be used when this returns."""
        topic = NewTopic(name, state.partitions, state.replication, config=dict(state.settings))
        answers = self._admin.create_topics([topic], request_timeout=self._timeout_s)
        _result(answers[name], f"making topic {name}")
        self._wait_until_seen(name, state.partitions)

    def grow(self, name: str, partitions: int) -> None:
        """Raise the number of partitions; keys move."""
        answers = self._admin.create_partitions([NewPartitions(name, partitions)], request_timeout=self._timeout_s)
        _result(answers[name], f"adding partitions to {name}")
        self._wait_until_seen(name, partitions)

    def alter(self, name: str, settings: Mapping[str, str]) -> None:
        """Change these settings and no other; they are in effect when this returns."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        answers = self._admin.incremental_alter_configs([resource], request_timeout=self._timeout_s)
        _result(answers[resource], f"settings of {name}")
        deadline = time.monotonic() + self._timeout_s
        while True:
            found = self.describe([name]).get(name)
            state = found.settings if found is not None else {}
            if settings.items() <= state.items():
                return
            if time.monotonic() > deadline:
                wrong = {key: state.get(key) for key, value in settings.items() if state.get(key) != value}
                raise LogUnavailable(f"topic {name}: changed, but after {self._timeout_s:.0f} s it says {wrong}")
            time.sleep(0.05)

    def _wait_until_seen(self, name: str, partitions: int) -> None:
        """The controller has said yes; brokers hear of it a little later."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            found = self._metadata().topics.get(name)
            led = [part for part in found.partitions.values() if part.leader >= 0] if found is not None else []
            if len(led) >= partitions:
                return
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {name}: made, but no broker leads it after {self._timeout_s:.0f} s")
            time.sleep(0.05)

    def _metadata(self) -> Any:
        try:
            return self._admin.list_topics(timeout=self._timeout_s)
        except KafkaException as error:
            raise LogUnavailable(
                f"{self._options.bootstrap}: no broker answers ({error.args[0].name()})", hint="is Kafka running?"
            ) from error


def _result(future: Future[Any], doing: str) -> Any:
    try:
        return future.result(TIMEOUT_SECONDS)
    except KafkaException as error:
        raise translated(error, doing) from error
