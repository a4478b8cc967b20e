"""What a broker, a stranger or an operator may do wrong: each ends with a name, and nothing falls over."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from confluent_kafka import Producer
from kafka_support import new_topic
from typer.testing import CliRunner

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.align import CloseRule
from serving.cli import commands_letters, commands_roles, commands_topics
from serving.clock import SystemClock
from serving.errors import LockstepError, LogError, LogUnavailable, ParameterInvalid, TopicsInvalid, TopicUnknown
from serving.ports_log import MAX_RECORD_BYTES, GroupOptions, TopicPartition, TopicState
from serving.records.dead_letters import KEPT_BYTES
from serving.roles.accountant import LogAccountant
from serving.roles.dead_letters import read_letters
from serving.roles.names import Names

pytestmark = pytest.mark.needs("kafka")
TOPICS = {"frames": 1, "results": 1, "outcomes": 1, "timelines": 1, "streams": 1, "dead_letter": 1}
HUGE = 30 << 20


def lockstep(*arguments: str) -> tuple[int, Any]:
    """Exit status and JSON of a call; an error of ours is raised."""
    app = typer.Typer()
    for module in (commands_roles, commands_topics, commands_letters):
        module.register(app)
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout) if done.stdout.startswith(("[", "{")) else done.output


@pytest.fixture
def names(kafka: EmbeddedKafka) -> Names:
    found = Names(f"bad{time.monotonic_ns() % 10**9}.")
    admin = KafkaTopics(KafkaOptions(kafka.bootstrap))
    for topic, partitions in TOPICS.items():
        large = {"max.message.bytes": str(HUGE + (1 << 20))} if topic == "frames" else {}
        more = {"max.message.bytes": str(MAX_RECORD_BYTES)} if topic == "dead_letter" else large
        admin.create(found.topic(topic), TopicState(partitions, 1, more))
    return found


def test_a_record_of_30_mb_becomes_a_dead_letter_that_says_so(kafka: EmbeddedKafka, names: Names) -> None:
    """On a topic whose owner allows it: ours do not."""
    value = bytes(range(256)) * (HUGE // 256)
    stranger = Producer({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": HUGE + (1 << 20)})
    for key, payload in ((b"gate", value), (b"a/b", b""), (b"x" * 300, b"")):
        stranger.produce(names.topic("frames"), payload, key)
    assert stranger.flush(60) == 0
    log = KafkaLog(KafkaOptions(kafka.bootstrap))
    accountant = LogAccountant(log, names, CloseRule(), SystemClock())
    deadline = time.monotonic() + 60
    while accountant.dead_letters < 3 and time.monotonic() < deadline:
        accountant.step()
    accountant.close()
    letters = [found.letter for found in read_letters(log, names, "schema")]
    assert [letter is not None for letter in letters] == [True] * 3
    big, slash, long = (letter for letter in letters if letter is not None)
    assert (big.size, len(big.record.value or b""), big.whole) == (HUGE, KEPT_BYTES, False)
    assert big.sha256 == hashlib.sha256(value).hexdigest()
    assert "frames.key" in slash.error and "'a/b'" in slash.error and "frames.key" in long.error
    code, rows = lockstep("dead-letters", "list", "--kafka", kafka.bootstrap, "--config", config(names), "--json")
    assert code == 0 and [row["whole"] for row in rows] == [False, True, True]
    _shown_and_replayed(kafka, names, rows)


def _shown_and_replayed(kafka: EmbeddedKafka, names: Names, rows: list[dict[str, Any]]) -> None:
    """What a person does next: look at one, write it again; the one that was cut cannot be."""
    where = ("--kafka", kafka.bootstrap, "--config", config(names), "--json")
    code, shown = lockstep("dead-letters", "show", rows[1]["id"], *where)
    assert code == 0 and shown["reason"] == "schema" and "'a/b'" in shown["error"]
    log, place = KafkaLog(KafkaOptions(kafka.bootstrap)), TopicPartition(names.topic("frames"), 0)
    before = log.bounds([place])[place][1]
    with pytest.raises(ParameterInvalid, match="only 65536 of its 31457280 bytes were kept"):
        lockstep("dead-letters", "replay", "--all", "--reason", "schema", *where)
    assert log.bounds([place])[place][1] == before, "none is written where one cannot be"
    code, done = lockstep("dead-letters", "replay", rows[1]["id"], rows[2]["id"], *where)
    assert (code, done["replayed"]) == (0, 2)
    assert log.bounds([place])[place][1] == before + 2


def config(names: Names) -> str:
    import tempfile
    from pathlib import Path

    file = Path(tempfile.mkdtemp(prefix="lockstep-test-")) / "lockstep.yaml"
    file.write_text(f"kafka_prefix: {names.prefix}\n")
    return str(file)


@pytest.mark.parametrize("role", [["accountant"], ["mixer", "--output", "x"], ["worker", "--model", "none"]])
def test_no_role_starts_on_topics_that_will_not_do(kafka: EmbeddedKafka, names: Names, role: list[str]) -> None:
    """Made by hand: kept for a week, which is fine, deleted where they must be compacted, which is not."""
    with pytest.raises(TopicsInvalid, match=r"timelines: cleanup.policy: expected compact, got delete"):
        lockstep(*role, "--kafka", kafka.bootstrap, "--config", config(names))
    with pytest.raises(TopicsInvalid, match=r"no topic nowhere\.frames, nowhere\.results") as found:
        lockstep(*role, "--kafka", kafka.bootstrap, "--config", config(Names("nowhere.")))
    assert "lockstep topics apply" in str(found.value)


def test_a_topic_deleted_under_way_ends_the_reader_with_its_name(kafka: EmbeddedKafka) -> None:
    options = KafkaOptions(kafka.bootstrap, topic_patience_s=1.0)
    topic = new_topic(options, 1)
    consumer = KafkaLog(options).consumer([topic], GroupOptions(f"group-{topic}"))
    deadline = time.monotonic() + 30
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    admin = KafkaTopics(options)._admin  # held: a client that is let go takes its calls with it
    admin.delete_topics([topic])[topic].result(20)
    with pytest.raises((TopicUnknown, LogError)) as found:
        while time.monotonic() < deadline + 30:
            consumer.poll(0.1)
    assert topic in str(found.value)
    consumer.close()


@pytest.fixture
def impostor() -> Iterator[Callable[[bytes], int]]:
    """Something that answers where a broker should."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        answers: list[bytes] = []

        def serve() -> None:
            while not over.is_set():
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    continue
                with peer:
                    peer.settimeout(0.5)
                    try:
                        peer.recv(4096)
                        peer.sendall(answers[0])
                    except OSError:
                        continue

        threads: list[threading.Thread] = []

        def start(answer: bytes) -> int:
            answers.append(answer)
            threads.append(threading.Thread(target=serve, daemon=True))
            threads[-1].start()
            return int(server.getsockname()[1])

        yield start
        over.set()
        for thread in threads:  # before the socket is closed under its accept()
            thread.join()


UNSUPPORTED = b"\x00\x00\x00\x0a" + b"\x00\x00\x00\x01" + b"\x00\x23" + b"\x00\x00\x00\x00"  # error 35, no versions


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", UNSUPPORTED, b""], ids=["http", "other version", "closed"]
)
def test_what_is_no_broker_that_we_can_talk_to_is_said_in_time(impostor: Callable[[bytes], int], answer: bytes) -> None:
    port = impostor(answer)
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match=f"127.0.0.1:{port}: no broker answers"):
        KafkaTopics(KafkaOptions(f"127.0.0.1:{port}"), timeout_s=2.0).brokers()
    assert time.monotonic() - began < 30


def test_an_offset_beyond_the_end_is_refused_and_not_reset(kafka: EmbeddedKafka) -> None:
    options = KafkaOptions(kafka.bootstrap)
    topic = new_topic(options, 1)
    reader = KafkaLog(options).reader({TopicPartition(topic, 0): 77})
    deadline = time.monotonic() + 30
    with pytest.raises(LockstepError, match="our position is 77, the log ends at 0"):
        while time.monotonic() < deadline:
            reader.poll(0.2)
    reader.close()
