"""kafka-python, which shares no code with our client, reads what we write and writes what we read, by the docs."""

from __future__ import annotations

import gc
import json
import time
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jsonschema
import pytest
from kafka_support import new_topic

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.kafka import KafkaLog, KafkaOptions
from serving.align import payload_hash
from serving.errors import RecordInvalid
from serving.frames import Frame, FrameResult, LedgerKey, Outcome, Posting
from serving.ports_log import LogRecord, NewRecord, TopicPartition
from serving.records import FrameMessage, ResultMessage, decode_frame, decode_result, encode_frame, encode_result
from serving.records.results import FrameTimes, ModelFacts
from serving.records.schema import results_schema
from serving.types import Detections

pytestmark = [
    pytest.mark.needs("kafka"),
    pytest.mark.filterwarnings(r"ignore:.*Use files\(\) instead:DeprecationWarning"),  # kafka-python, at import
]
JPEG = b"\xff\xd8\xff\xe0" + bytes(100) + b"\xff\xd9"
SOURCES = ["gate", "hall-1", "hall-2", "roof.north", "x", "a-source-with-a-rather-long-name_2026"]


@pytest.fixture
def options(kafka: EmbeddedKafka) -> KafkaOptions:
    return KafkaOptions(kafka.bootstrap)


@pytest.fixture(autouse=True)
def _sockets_of_kafka_python() -> Iterator[None]:
    """kafka-python leaves a socket to the garbage collector now and then: collected here, not in a test after these."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def stranger(options: KafkaOptions) -> Iterator[Any]:
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

    producer = KafkaProducer(bootstrap_servers=options.bootstrap, acks="all")
    consumer = KafkaConsumer(bootstrap_servers=options.bootstrap, enable_auto_commit=False)

    class Stranger:
        def write(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> Any:
            return producer.send(topic, value=value, key=key, headers=headers).get(15)

        def read(self, topic: str, partitions: int, count: int) -> list[Any]:
            places = [TopicPartition(topic, n) for n in range(partitions)]
            consumer.assign(places)
            consumer.seek_to_beginning()
            found: list[Any] = []
            deadline = time.monotonic() + 15
            while len(found) < count and time.monotonic() < deadline:
                for records in consumer.poll(timeout_ms=200).values():
                    found += records
            return found

    yield Stranger()
    producer.close()
    consumer.close()


def ours(options: KafkaOptions, topic: str, partitions: int, count: int) -> list[LogRecord]:
    reader = KafkaLog(options).reader({TopicPartition(topic, n): 0 for n in range(partitions)})
    found: list[LogRecord] = []
    deadline = time.monotonic() + 15
    while len(found) < count and time.monotonic() < deadline:
        found += reader.poll(0.2).records
    reader.close()
    return found


def test_partition_numbers_are_equal_by_key(options: KafkaOptions, stranger: Any) -> None:
    topic = new_topic(options, 12)
    by_us: dict[bytes, int] = {}
    producer = KafkaLog(options).producer()
    for source in SOURCES:
        key = source.encode()
        producer.append(NewRecord(topic, key, b"v"), lambda d: by_us.setdefault(d.record.key or b"", d.partition))
    producer.flush(15)
    by_them = {s.encode(): stranger.write(topic, s.encode(), b"v", []).partition for s in SOURCES}
    assert by_us == by_them and len(set(by_us.values())) > 1


def test_a_frame_of_ours_is_read_by_the_docs(options: KafkaOptions, stranger: Any) -> None:
    topic = new_topic(options, 3)
    frame = Frame(
        "gate", 2, 7, 40_000_000, 90_003_600, Fraction(1, 90_000), ("person", "face"), 0, raw_pts=3_600, dts=1_800
    )
    producer = KafkaLog(options).producer()
    producer.append(NewRecord(topic, *encode_frame(FrameMessage(frame, 640, 480), JPEG)))
    producer.flush(15)
    (record,) = stranger.read(topic, 3, 1)
    headers = {name: value.decode() for name, value in record.headers}
    assert record.key == b"gate" and record.value == JPEG
    assert headers == {
        "epoch": "2", "frame_seq": "7", "pipelines": "person,face", "pts": "90003600", "time_base": "1/90000",
        "pts_ns": "40000000", "raw_pts": "3600", "dts": "1800", "pts_source": "container", "capture_quality": "none",
        "analyse": "true", "width": "640", "height": "480", "ce_specversion": "1.0", "ce_type": "lockstep.frame.v1",
        "ce_source": "/sources/gate", "ce_id": "2/7", "content-type": "image/jpeg",
    }  # fmt: skip
    assert record.timestamp_type == 1, "the broker's append time"


def test_a_result_of_ours_suits_the_published_schema(options: KafkaOptions, stranger: Any) -> None:
    topic = new_topic(options, 3)
    found = Detections.empty()
    result = FrameResult("person", 3, "detection", found, payload_hash(found), (("infer", 1.0),))
    message = ResultMessage(
        Posting(LedgerKey("gate", 2, 7, "person"), 40_000_000, Outcome.of_result(result)),
        ModelFacts("person", 3, "detection", "0123456789ab"),
        FrameTimes(3600, Fraction(1, 90_000)),
        {"detections": []},
        (640, 480),
    )
    producer = KafkaLog(options).producer()
    producer.append(NewRecord(topic, *encode_result(message), partition=2))
    producer.flush(15)
    (record,) = stranger.read(topic, 3, 1)
    document = json.loads(record.value)
    jsonschema.validate(document, results_schema())
    assert record.partition == 2 and document["detections"] == [] and document["pts_ns"] == 40_000_000


def test_a_frame_written_by_hand_is_a_frame(options: KafkaOptions, stranger: Any) -> None:
    """The smallest record that docs/kafka.md asks of one's own ingest."""
    topic = new_topic(options, 3)
    headers = {
        "epoch": "1", "frame_seq": "0", "pts": "3600", "time_base": "1/90000", "pts_ns": "0", "pipelines": "person",
    }  # fmt: skip
    stranger.write(topic, b"my-camera", JPEG, [(name, text.encode()) for name, text in headers.items()])
    (record,) = ours(options, topic, 3, 1)
    frame = decode_frame(record.key, record.value, record.headers, 5).record
    assert isinstance(frame, Frame)
    assert (frame.source_id, frame.epoch, frame.frame_seq, frame.pts_ns, frame.pts) == ("my-camera", 1, 0, 0, 3600)
    assert frame.analyse and frame.pipelines == ("person",) and frame.arrival_mono_ns == 5
    assert frame.picture is not None and frame.picture.encoded == JPEG


def test_a_forged_result_names_its_field(options: KafkaOptions, stranger: Any) -> None:
    topic = new_topic(options, 1)
    stranger.write(topic, b"gate", json.dumps({"schema": 1, "source_id": "other"}).encode(), [])
    (record,) = ours(options, topic, 1, 1)
    with pytest.raises(RecordInvalid) as caught:
        decode_result(record.key, record.value, record.headers)
    assert caught.value.field == "epoch"
