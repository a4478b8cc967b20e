"""F4 on a real broker and a real Redis: flushed and away at random moments, the index is complete again in 30 s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from redis_support import RedisServer

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.adapters.redis import RedisIndex
from serving.clock import SystemClock
from serving.errors import Unavailable
from serving.frames import FrameResult, LedgerKey, Outcome, Posting
from serving.ports_log import NewRecord, TopicState
from serving.records import OutcomeMessage, ResultMessage, encode_outcome, encode_result
from serving.records.results import FrameTimes, ModelFacts
from serving.roles.index import IndexWriter
from serving.roles.names import Names
from serving.types import Detections

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.needs("redis")]
NAMES = Names("index.")
FRAMES = 9000  # ten minutes of 15 a second
EMPTY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


def message(seq: int, digest: str = "0" * 64) -> ResultMessage:
    found = FrameResult("m", 1, "detection", EMPTY, digest, ())
    posting = Posting(LedgerKey("gate", 1, seq, "m"), seq * 66_666_667, Outcome.of_result(found))
    return ResultMessage(posting, ModelFacts("m", 1, "detection"), FrameTimes(seq, Fraction(1, 15)), {"detections": []})


def write(log: KafkaLog, seqs: range) -> None:
    producer = log.producer()
    for seq in seqs:
        good = message(seq)
        records = [("results", encode_result(good))]
        if seq % 10 == 0:
            records.append(("results", encode_result(message(seq, "f" * 64))))  # outvoted
        posting = good.posting
        records.append(("outcomes", encode_outcome(OutcomeMessage(posting.key, posting.outcome))))
        for topic, encoded in records:
            producer.append(NewRecord(NAMES.topic(topic), encoded.key, encoded.value, encoded.headers, 1))
        while producer.waiting() > 5000:
            producer.poll(0.1)
    assert producer.close(30) == 0


def until(condition: Callable[[], bool], patience_s: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < patience_s, "not complete again in time"
        time.sleep(0.05)
    return time.monotonic() - started


def count(index: RedisIndex, from_seq: int = 0) -> int:
    try:
        return len(index.results("gate", 1, from_seq * 66_666_667, None, 10**6).documents)
    except Unavailable:
        return -1


def test_f4_flush_and_outage_cost_no_result(kafka: EmbeddedKafka, server: RedisServer) -> None:
    options = KafkaOptions(kafka.bootstrap)
    for topic in ("results", "outcomes"):
        KafkaTopics(options).create(NAMES.topic(topic), TopicState(3, 1, {}))
    log, index = KafkaLog(options), RedisIndex(server.url, "f4.")
    writer = IndexWriter(index, log, NAMES, SystemClock()).start()
    try:
        write(log, range(FRAMES))
        writer.assigned([0, 1, 2])
        until(lambda: count(index) == FRAMES, 30)
        server.flush()
        until(lambda: count(index, FRAMES - 900) == 900, 30)  # the newest minute
        seconds = until(lambda: count(index) == FRAMES, 30)
        print(f"{FRAMES} results read back in {seconds:.1f} s after a flush")
        server.stop()
        write(log, range(FRAMES, FRAMES + 100))
        server.start()  # empty: it keeps nothing on disk
        until(lambda: count(index) == FRAMES + 100, 30)
        found = index.results("gate", 1, 0, None, 10**6).documents
        assert [d["frame_seq"] for d in found] == list(range(FRAMES + 100)), "none twice, none from elsewhere"
        server.pause(True)
        write(log, range(FRAMES + 100, FRAMES + 150))
        server.pause(False)
        until(lambda: count(index) == FRAMES + 150, 30)
    finally:
        writer.close()
        index.close()
