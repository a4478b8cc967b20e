"""The embedded broker itself: it comes back with its records after a kill, and leaves nobody behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from kafka_support import new_topic

from deploy.embedded.kafka import BrokerSettings, EmbeddedKafka
from deploy.embedded.kafka_jars import fetch
from serving.adapters.kafka import KafkaLog, KafkaOptions
from serving.errors import LogUnavailable, Unavailable
from serving.ports_log import Committed, Delivery, GroupOptions, NewRecord, TopicPartition

pytestmark = pytest.mark.needs("kafka")


@pytest.mark.faults
def test_f2_records_positions_and_clients_survive_a_kill(tmp_path: Path) -> None:
    with EmbeddedKafka(BrokerSettings(tmp_path / "kafka")) as broker:
        options = KafkaOptions(broker.bootstrap)
        topic, log, done = new_topic(options, 1), KafkaLog(options), list[Delivery]()
        place = TopicPartition(topic, 0)
        producer = log.producer()
        producer.append(NewRecord(topic, b"k", b"before"), done.append)
        assert producer.flush(20) == 0
        consumer = log.consumer([topic], GroupOptions("g", session_timeout_s=3.0))
        values: list[bytes | None] = []
        _read(consumer, values, 1)
        consumer.commit({place: Committed(1, "mark")})
        broker.kill()
        producer.append(NewRecord(topic, b"k", b"during"), done.append)
        assert producer.flush(0.5) == 1 and len(done) == 1, "nothing is acknowledged while nobody answers"
        assert consumer.poll(0.2).records == ()
        broker.start()
        assert producer.flush(30) == 0 and [d.error for d in done] == [None, None]
        _read(consumer, values, 2)
        assert values == [b"before", b"during"]
        assert consumer.committed([place]) == {place: Committed(1, "mark")}
        consumer.close()


@pytest.mark.faults
def test_f2_bounds_are_told_by_a_broker_or_not_at_all(tmp_path: Path) -> None:
    """librdkafka gives -1001, not an error, for what no broker answered in time."""
    with EmbeddedKafka(BrokerSettings(tmp_path / "kafka")) as broker:
        options = KafkaOptions(broker.bootstrap)
        places = [TopicPartition(new_topic(options, 3), number) for number in range(3)]
        log = KafkaLog(options)
        known = log.bounds(places)
        assert known == dict.fromkeys(places, (0, 0))
        for silence, end in ((broker.pause, broker.resume), (broker.kill, broker.start)):
            silence()
            with pytest.raises(LogUnavailable):
                log.bounds(places, 1.0)
            end()
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert log.bounds(places) == known
                    break
                except LogUnavailable:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
        log.close()


@pytest.mark.faults
def test_f2_a_frozen_broker_takes_connections_for_when_it_goes_on(tmp_path: Path) -> None:
    """A client whose request was not answered connects anew, again and again. Kafka keeps room for 50; behind those
    the kernel tries again after 1, 2, 4, 8 s, and a broker that is back is not found for as long."""
    with EmbeddedKafka(BrokerSettings(tmp_path / "kafka")) as broker, ExitStack() as stack:
        broker.pause()
        host, _, port = broker.bootstrap.partition(":")
        for _ in range(120):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=3))
        broker.resume()


def _read(consumer: object, values: list[bytes | None], count: int) -> None:
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        values += [record.value for record in consumer.poll(0.2).records]  # type: ignore[attr-defined]


@pytest.mark.faults
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from deploy.embedded.kafka import *\n"
        "b = EmbeddedKafka(BrokerSettings(Path(sys.argv[1]))); b.start(); print(b.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "k")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_it_listens_on_loopback_only(kafka: EmbeddedKafka) -> None:
    assert kafka.pid is not None
    listening = [c.laddr.ip for c in psutil.Process(kafka.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening and {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_without_jars_and_maven_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no Maven"):
        fetch(tmp_path / "empty")
