"""One real broker for all tests of a run, and topics of their own for each."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest

from deploy.embedded.kafka import BrokerSettings, EmbeddedKafka
from serving.adapters.kafka import KafkaOptions, KafkaTopics
from serving.ports_log import TopicState

_SHARED: pytest.StashKey[EmbeddedKafka] = pytest.StashKey()
_NUMBERS = itertools.count(1)


def shared_kafka(request: pytest.FixtureRequest) -> EmbeddedKafka:
    """Started once, stopped with the test run."""
    stash = request.config.stash
    if _SHARED not in stash:
        folder = Path(tempfile.mkdtemp(prefix="lockstep-test-kafka-"))
        request.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        broker = EmbeddedKafka(BrokerSettings(folder / "data"))
        request.config.add_cleanup(broker.stop)
        broker.start()
        stash[_SHARED] = broker
    return stash[_SHARED]


def new_topic(options: KafkaOptions, partitions: int, **settings: str) -> str:
    """A topic that no other test uses."""
    name = f"test-{next(_NUMBERS)}-{partitions}"
    KafkaTopics(options).create(name, TopicState(partitions, 1, settings))
    return name
