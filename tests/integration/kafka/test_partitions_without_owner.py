"""A member that ends between giving partitions up and joining again leaves them with nobody; the others notice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.kafka import consumer as adapter
from serving.adapters.kafka.consumer import KafkaConsumer
from serving.adapters.kafka.options import KafkaOptions
from serving.adapters.kafka.topics import KafkaTopics
from serving.ports_log import Assignor, GroupOptions, TopicState

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.timeout(240)]
TOPIC, PARTITIONS = "without-owner.frames", 4
DIES_AS_IT_GIVES_UP = """
import os, sys, time
from serving.adapters.kafka.consumer import KafkaConsumer
from serving.adapters.kafka.options import KafkaOptions
from serving.ports_log import Assignor, GroupOptions
class Dying:
    def assigned(self, positions): print(len(positions), flush=True)
    def revoked(self, places): os._exit(9)
    def lost(self, places): os._exit(9)
address, topic, group = sys.argv[1:]
options = GroupOptions(group, Assignor.COOPERATIVE_STICKY, member="a")
consumer = KafkaConsumer(KafkaOptions(address, "dying"), [topic], options, Dying())
while True: consumer.poll(0.1)
"""


def member(address: str, group: str, name: str) -> KafkaConsumer:
    options = GroupOptions(group, Assignor.COOPERATIVE_STICKY, member=name)
    return KafkaConsumer(KafkaOptions(address, f"t-{name}"), [TOPIC], options)


@pytest.fixture
def halfway(kafka: EmbeddedKafka, request: pytest.FixtureRequest) -> Iterator[list[KafkaConsumer]]:
    """Two members of a group whose first one has died halfway and come back: half of the partitions are nobody's."""
    group = f"without-owner-{request.node.name}"
    topics = KafkaTopics(KafkaOptions(kafka.bootstrap, "t-topics"))
    if not topics.describe([TOPIC]):
        topics.create(TOPIC, TopicState(PARTITIONS, 1, {}))
    command = [sys.executable, "-c", DIES_AS_IT_GIVES_UP, kafka.bootstrap, TOPIC, group]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dying:
        assert dying.stdout is not None and int(dying.stdout.readline()) == PARTITIONS
        members = [member(kafka.bootstrap, group, "b")]
        deadline = time.monotonic() + 60
        while dying.poll() is None and time.monotonic() < deadline:
            members[0].poll(0.1)
        assert dying.poll() == 9
    members.append(member(kafka.bootstrap, group, "a"))  # within its session: it gets back what it kept, no new sharing
    yield members
    for one in members:
        one.close()


def owned(members: list[KafkaConsumer], within_s: float) -> int:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for one in members:
            one.poll(0.1)
        if sum(len(one.assignment()) for one in members) == PARTITIONS:
            break
    return sum(len(one.assignment()) for one in members)


def test_partitions_without_owner_are_shared_again(halfway: list[KafkaConsumer]) -> None:
    assert owned(halfway, within_s=60) == PARTITIONS


def test_they_would_stay_without_owner_if_nobody_looked(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The defect that the look is for: three sessions later they are nobody's still."""
    monkeypatch.setattr(adapter, "OwnerWatch", lambda *_: None)
    halfway = request.getfixturevalue("halfway")
    assert owned(halfway, within_s=12) < PARTITIONS
