"""Partitions are added between two readings of a source, by the word for it, while worker, mixer and accountant run.

Its key moves. What was written stays where it was: the epoch that was claimed there is not claimed again, the roles
find the new partitions by themselves, and both epochs are shown, closed and accounted for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from uuid import uuid4

import numpy as np
import pytest
from kafka_support import shared_kafka

from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.align import CloseRule
from serving.clock import SystemClock
from serving.frames import SourceKind
from serving.murmur2 import partition_of
from serving.ports_log import TopicPartition, TopicState
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage, decode_frame
from serving.roles.accountant import LogAccountant
from serving.roles.following import standing
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.jobs import WorkerSettings
from serving.roles.ledger import read_ledger
from serving.roles.mixer import LogMixer
from serving.roles.names import Names
from serving.roles.timelines import Timelines
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.streams.worker import Worker
from serving.testing.list_source import Connection, ListSource
from tests.integration.kafka.test_one_source import Sink, new_role, pipeline

pytestmark = pytest.mark.needs("kafka")
CLOCK, FRAMES, FEW, MORE = SystemClock(), 20, 2, 5
ALIKE = ("frames", "results", "outcomes", "timelines")
SOURCE = next(name for name in (f"gate-{n}" for n in range(99)) if partition_of(name.encode(), MORE) >= FEW)


@dataclass
class System:
    log: KafkaLog
    admin: KafkaTopics
    names: Names

    def grow(self) -> None:
        for topic in ALIKE:
            self.admin.grow(self.names.topic(topic), MORE)


@pytest.fixture
def system(request: pytest.FixtureRequest) -> System:
    options = KafkaOptions(shared_kafka(request).bootstrap, delivery_timeout_s=0, topic_patience_s=1.0)
    admin, names = KafkaTopics(options), Names(f"more{uuid4().hex[:8]}.")
    for topic in (*ALIKE, "dead_letter"):
        admin.create(names.topic(topic), TopicState(FEW, 1, {}))
    return System(KafkaLog(options), admin, names)


def ingested(system: System, ingest_id: str) -> LogIngest:
    shown = [(3600 * n, np.full((64, 96, 3), 20 + n * 5, np.uint8)) for n in range(FRAMES)]
    source = ListSource(SOURCE, [Connection(shown)], SourceKind.FILE)
    role = LogIngest(
        system.log, system.names, source, StreamMessage(SOURCE, "file:clip", ("level",), mixed=True), ingest_id,
        IngestSettings(JpegCodec()), CLOCK, lambda seconds: False,
    )  # fmt: skip
    role.run()
    assert role.frames == FRAMES and not role.fenced
    return role


@contextmanager
def roles(system: System) -> Iterator[tuple[LogAccountant, LogMixer, LogWorker]]:
    worker = LogWorker(
        system.log,
        system.names,
        Worker([pipeline()], None, LogTransport(JpegCodec())),
        WorkerSettings(),
        CLOCK,
        lambda: None,
    )
    accountant = LogAccountant(system.log, system.names, CloseRule(), CLOCK)
    mixer = LogMixer(system.log, system.names, new_role(Sink()), JpegCodec(), CLOCK)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield accountant, mixer, worker
    finally:
        worker.stop()
        thread.join(30)
        accountant.close()
        mixer.close()


def until_over(system: System, accountant: LogAccountant, mixer: LogMixer, worker: LogWorker, epochs: int) -> None:
    """So many epochs of the source are accounted for to the last frame, and its outputs are finished."""
    deadline = time.monotonic() + 60
    while not (
        accountant.is_finished(SOURCE)
        and mixer.outputs(SOURCE) is not None
        and [row.balanced for row in read_ledger(system.log, system.names, SOURCE)] == [True] * epochs
    ):
        accountant.step(0.02)
        mixer.step(0.02)
        assert worker.analyst.failure is None and time.monotonic() < deadline, (
            read_ledger(system.log, system.names, SOURCE),
            worker.counters,
        )


def partitions_of_frames(system: System) -> dict[int, set[int]]:
    """Where the frames of each epoch lie."""
    found: dict[int, set[int]] = {}
    places = [TopicPartition(system.names.topic("frames"), n) for n in range(MORE)]
    for record in chain.from_iterable(standing(system.log, places)):
        frame = decode_frame(record.key, record.value, record.headers, 0).record
        found.setdefault(frame.epoch, set()).add(record.partition)
    return found


@pytest.mark.parametrize("restarted", [False, True], ids=["roles_run_on", "roles_begin_anew"])
def test_a_source_goes_on_in_its_new_partition_with_the_next_epoch(system: System, restarted: bool) -> None:
    with roles(system) as (accountant, mixer, worker):
        ingested(system, "ingest-1")
        until_over(system, accountant, mixer, worker, 1)
        if not restarted:
            system.grow()
            ingested(system, "ingest-2")
            until_over(system, accountant, mixer, worker, 2)
            assert mixer.refused == accountant.dead_letters == 0 and not worker.counters["refused"]
    if restarted:
        system.grow()
        ingested(system, "ingest-2")
        with roles(system) as (accountant, mixer, worker):
            until_over(system, accountant, mixer, worker, 2)
            assert mixer.refused == accountant.dead_letters == 0 and not worker.counters["refused"]
    homes = partitions_of_frames(system)
    assert homes == {1: {partition_of(SOURCE.encode(), FEW)}, 2: {partition_of(SOURCE.encode(), MORE)}}
    rows = read_ledger(system.log, system.names, SOURCE)
    assert [(row.epoch, row.results, row.open) for row in rows] == [(1, FRAMES, 0), (2, FRAMES, 0)]


def test_a_claim_where_its_key_never_belonged_is_refused(system: System) -> None:
    ingested(system, "ingest-1")
    before = Timelines(system.log, system.names)
    before.catch_up()
    system.grow()
    before.catch_up()
    assert before.partitions == MORE and before.refused == 0 and before.find(SOURCE, 1) is not None
    nowhere = [n for n in range(MORE) if all(partition_of(SOURCE.encode(), count) != n for count in range(1, MORE + 1))]
    assert not any(before._may_lie_there(SOURCE, n) for n in nowhere)
    assert before._may_lie_there(SOURCE, partition_of(SOURCE.encode(), FEW))
    before.close()
