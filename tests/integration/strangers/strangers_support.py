"""Our half of a system for strangers: worker (a stub model) and accountant in threads, on a real broker."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from kafka_support import shared_kafka

from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.adapters.video import AddressSource
from serving.align import CloseRule
from serving.clock import SystemClock
from serving.ports_log import LogRecord, TopicPartition, TopicState
from serving.preprocess.jpeg import JpegCodec
from serving.records import Encoded, StreamMessage
from serving.roles.accountant import LogAccountant
from serving.roles.following import standing
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.ledger import LedgerRow, read_ledger
from serving.roles.names import Names
from serving.roles.sender import Sender
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker, WorkerSettings
from serving.streams.worker import Pipeline, Worker
from serving.tasks.detection import TASK
from serving.testing.faults.stub_model import NAME, Control, stub_infer, write_control

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TOPICS = {"frames": 3, "results": 3, "outcomes": 3, "timelines": 3, "streams": 1, "dead_letter": 1}
CLOCK = SystemClock()


@dataclass(frozen=True)
class Ours:
    """Our half of the system. `bootstrap` and `prefix` are all that a stranger is told."""

    bootstrap: str
    prefix: str
    log: KafkaLog
    names: Names

    def ingest(self, source_id: str, path: Path) -> None:
        """A file through our own ingest, to its end."""
        stream = StreamMessage(source_id, str(path), (NAME,))
        source = AddressSource(source_id, str(path))
        settings = IngestSettings(JpegCodec())
        LogIngest(self.log, self.names, source, stream, "ours", settings, CLOCK, lambda seconds: False).run()

    def write(self, topic: str, *records: tuple[Encoded, int]) -> None:
        """Records of somebody else's, with their partitions; by one producer, as each takes half a second to begin."""
        sender = Sender(self.log.producer())
        for record, partition in records:
            sender.send(self.names.topic(topic), record, partition)
        assert sender.flush(10.0)
        sender.close()

    def read(self, topic: str) -> list[LogRecord]:
        """All that stands there now."""
        places = [TopicPartition(self.names.topic(topic), n) for n in range(TOPICS[topic])]
        return list(chain.from_iterable(standing(self.log, places)))

    def balanced(self, source_id: str, patience_s: float = 60.0) -> LedgerRow:
        """The ledger of a source, once it balances."""
        deadline = time.monotonic() + patience_s
        while True:
            rows = read_ledger(self.log, self.names, source_id)
            if rows and all(row.balanced for row in rows):
                (row,) = rows
                return row
            assert time.monotonic() < deadline, rows
            time.sleep(0.2)


def stranger(script: str, *arguments: object, patience_s: float = 90.0) -> str:
    """Run an example as anybody would; what it prints. Nothing of ours is imported by it."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def refused(script: str, *arguments: object) -> str:
    """What an example says where it cannot go on."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout == "", done.stdout
    return done.stderr


@contextmanager
def ours(request: pytest.FixtureRequest, folder: Path) -> Iterator[Ours]:
    """Topics of its own, a worker and an accountant."""
    bootstrap = shared_kafka(request).bootstrap
    names = Names(f"stranger{time.monotonic_ns() % 10**9}.")
    admin = KafkaTopics(KafkaOptions(bootstrap))
    for topic, partitions in TOPICS.items():
        admin.create(names.topic(topic), TopicState(partitions, 1, {}))
    log = KafkaLog(KafkaOptions(bootstrap, delivery_timeout_s=0))
    write_control(folder / "control", latency_ms=0, jitter_ms=0)
    pipeline = Pipeline(
        NAME, 1, "detection", stub_infer(Control(folder / "control")), lambda r: TASK.to_document(r, ()), ()
    )
    worker = LogWorker(
        log, names, Worker([pipeline], transport=LogTransport(JpegCodec())), WorkerSettings(), CLOCK, lambda: None
    )
    accountant = LogAccountant(log, names, CloseRule(), CLOCK)
    stop, failures = threading.Event(), list[BaseException]()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - shown at the end
                failures.append(error)

        return body

    def account() -> None:
        while not stop.is_set():
            accountant.step()
        accountant.close()

    threads = [threading.Thread(target=guarded(work)) for work in (worker.run, account)]
    for thread in threads:
        thread.start()
    try:
        yield Ours(bootstrap, names.prefix, log, names)
    finally:
        stop.set()
        worker.stop()
        for thread in threads:
            thread.join(30)
    assert failures == []
