"""One source through ingest, worker, mixer and accountant, each by itself, meeting on the log only."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from kafka_support import shared_kafka

from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.adapters.video import AddressSource
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.align import Accountant, CloseRule, Mixer, MixerSettings
from serving.clock import SystemClock
from serving.errors import ServingError
from serving.frames import AlignedFrame, SourceKind
from serving.media import VideoSource
from serving.ports_log import NewRecord, RecordLog, TopicPartition, TopicState
from serving.preprocess.jpeg import JpegCodec
from serving.records import (
    StreamMessage,
    TimelineMessage,
    decode_dead_letter,
    decode_outcome,
    decode_result,
    result_document,
)
from serving.roles.accountant import LogAccountant
from serving.roles.following import standing
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.mixer import LogMixer, NewMixRole, Owner
from serving.roles.names import Names
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker, WorkerSettings
from serving.streams.drawing import Drawing
from serving.streams.ingest import ReconnectRules
from serving.streams.lines import ResultLines
from serving.streams.mix_role import MixRole
from serving.streams.run import run
from serving.streams.source_run import SourceJob
from serving.streams.worker import Pipeline, Worker
from serving.tasks.detection import TASK
from serving.testing.list_source import Connection, ListSource
from serving.testing.memory_log import MemoryLog
from serving.types import Detections, ImageSize, InferRequest, InferResponse

FRAMES = 40
TOPICS = {"frames": 3, "results": 3, "outcomes": 3, "timelines": 3, "streams": 1, "dead_letter": 1}
CLOCK = SystemClock()
VOLATILE = ("timings_ms", "attempt", "capture_ns", "capture_quality", "raw_pts", "dts")


def level_model(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
    """A stub detector: one box whose place is the grey level of the picture it was sent as JPEG."""
    answers: list[InferResponse | ServingError] = []
    for request in requests:
        assert request.encoded is not None, "the record's JPEG goes to the model unchanged"
        rgb = simplejpeg.decode_jpeg(request.encoded)
        x = float(rgb.mean()) / 4
        found = Detections(
            np.array([[x, 10, x + 20, 40]], np.float32), np.array([0.9], np.float32), np.zeros(1, np.int64)
        )
        answers.append(InferResponse(found, ImageSize(rgb.shape[1], rgb.shape[0]), {"infer": 1.0}))
    return answers


def pipeline(infer: Any = level_model) -> Pipeline:
    return Pipeline("level", 1, "detection", infer, lambda r: TASK.to_document(r, ("thing",)), ("thing",))


def make_clip(folder: Path) -> Path:
    path = folder / "clip.mp4"
    pictures = ((np.full((64, 96, 3), 20 + n * 5, np.uint8), 3000 * n) for n in range(FRAMES))
    write_clip(path, ClipSpec("mp4", Fraction(1, 90_000)), pictures)
    return path


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.needs("kafka"))])
def system(request: pytest.FixtureRequest) -> tuple[RecordLog, Names]:
    names = Names(f"one{abs(hash(request.node.name)) % 10_000}-{time.monotonic_ns() % 10_000}.")
    if request.param == "memory":
        return MemoryLog({names.topic(topic): n for topic, n in TOPICS.items()}), names
    options = KafkaOptions(shared_kafka(request).bootstrap, delivery_timeout_s=0)
    admin = KafkaTopics(options)
    for topic, partitions in TOPICS.items():
        admin.create(names.topic(topic), TopicState(partitions, 1, {}))
    return KafkaLog(options), names


@dataclass
class Sink:
    frames: list[AlignedFrame] = field(default_factory=list)
    told: Callable[[AlignedFrame], None] = lambda shown: None

    def write(self, shown: AlignedFrame) -> None:
        self.frames.append(shown)
        self.told(shown)


def new_role(sink: Sink) -> NewMixRole:
    def make(timeline: TimelineMessage, told: Callable[[AlignedFrame], None], owner: Owner) -> MixRole:
        live = timeline.info.kind is SourceKind.LIVE
        sink.told = told
        settings = MixerSettings(live=live, delay_ns=250_000_000)
        mixer, lines = Mixer(timeline.claim.source_id, settings), ResultLines(timeline.claim.source_id, {}, None)
        return MixRole(mixer, Accountant(CloseRule(live=live)), lines, Drawing({}), lambda stream: [], [sink])

    return make


@dataclass
class Roles:
    log: RecordLog
    names: Names
    accountant: LogAccountant
    mixer: LogMixer
    sink: Sink

    def ingest(self, source: VideoSource, **more: Any) -> LogIngest:
        stream = StreamMessage(source.source_id, "file:clip", ("level",), mixed=True, **more)
        role = LogIngest(self.log, self.names, source, stream, "ingest-1", IngestSettings(JpegCodec()), CLOCK, _wait)
        role.run()
        return role

    def results(self) -> int:
        balance = self.accountant.totals("gate").get("level")
        return balance.results if balance else 0

    def until(self, condition: Callable[[], bool], patience_s: float = 30.0) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, (self.accountant.totals("gate"), len(self.sink.frames))
            time.sleep(0.05)


def _wait(seconds: float) -> bool:
    time.sleep(min(seconds, 0.01))
    return False


@contextmanager
def running(log: RecordLog, names: Names, infer: Any = level_model) -> Iterator[Roles]:
    """Worker, mixer and accountant in threads of their own."""
    stop, failures = threading.Event(), list[BaseException]()
    worker_role = Worker([pipeline(infer)], transport=LogTransport(JpegCodec()))
    worker = LogWorker(log, names, worker_role, WorkerSettings(), CLOCK, lambda: None)
    sink = Sink()
    mixer = LogMixer(log, names, new_role(sink), JpegCodec(), CLOCK)
    accountant = LogAccountant(log, names, CloseRule(), CLOCK)

    def loop(role: Any) -> Callable[[], None]:
        def body() -> None:
            try:
                if role is worker:
                    worker.run()
                    return
                while not stop.is_set():
                    role.step()
            except BaseException as error:  # noqa: BLE001 - shown at the end of the test
                failures.append(error)
            finally:
                if role is not worker:
                    role.close()

        return body

    threads = [threading.Thread(target=loop(role)) for role in (worker, mixer, accountant)]
    for thread in threads:
        thread.start()
    try:
        yield Roles(log, names, accountant, mixer, sink)
    finally:
        stop.set()
        worker.stop()
        for thread in threads:
            thread.join(30)
    assert failures == []


def everything(log: RecordLog, topic: str) -> list[Any]:
    places = [TopicPartition(topic, n) for n in range(log.partitions(topic))]
    return list(chain.from_iterable(standing(log, places)))


def test_one_source_is_analysed_shown_and_accounted(system: tuple[RecordLog, Names], tmp_path: Path) -> None:
    log, names = system
    path = make_clip(tmp_path)
    with running(log, names) as roles:
        ingest = roles.ingest(AddressSource("gate", str(path)))
        assert ingest.frames == FRAMES and not ingest.fenced
        roles.until(lambda: roles.accountant.is_finished("gate") and roles.mixer.outputs("gate") is not None)
        balance = roles.accountant.totals("gate")["level"]
    assert balance.holds and balance.in_flight == 0
    assert (balance.accepted, balance.results) == (FRAMES, FRAMES)
    outcomes = [decode_outcome(r.key, r.value, r.headers) for r in everything(log, names.topic("outcomes"))]
    closed = [o for o in outcomes if o.closed]
    assert sorted(o.key.frame_seq for o in closed) == list(range(FRAMES)), "one visible outcome a key"
    assert [s.frame.frame_seq for s in roles.sink.frames] == list(range(FRAMES))
    assert all(not overlay.missing for shown in roles.sink.frames for overlay in shown.overlays)
    _same_as_in_process(log, names, path)


def _same_as_in_process(log: RecordLog, names: Names, path: Path) -> None:
    """`lockstep run --transport jpeg` gives the distributed results."""
    lines = io.StringIO()
    job = SourceJob(AddressSource("gate", str(path)), Drawing({}), lambda stream: [], results=lines, mixed=False)
    run([job], [pipeline()], transport=JpegCodec())
    wanted = [json.loads(line) for line in lines.getvalue().splitlines()]
    records = everything(log, names.topic("results"))
    found = [result_document(decode_result(r.key, r.value, r.headers)) for r in records]
    for document in (*wanted, *found):
        for name in VOLATILE:
            document.pop(name, None)
    assert sorted(found, key=lambda d: d["frame_seq"]) == wanted


def test_forged_records_get_dead_letters_and_touch_nothing(system: tuple[RecordLog, Names], tmp_path: Path) -> None:
    log, names = system
    with running(log, names) as roles:
        roles.ingest(AddressSource("gate", str(make_clip(tmp_path))))
        roles.until(lambda: roles.results() == FRAMES)
        (frame, *_), (result, *_) = everything(log, names.topic("frames")), everything(log, names.topic("results"))
        forged = [
            (frame, {"epoch": b"9"}), (frame, {"frame_seq": b"5000000"}), (frame, {"pts_ns": b"77"}),
            (frame, {"pipelines": b"other"}), (frame, {"time_base": b"1/25"}),
        ]  # fmt: skip
        producer = log.producer()
        for record, change in forged:
            headers = tuple((name, change.get(name, value)) for name, value in record.headers)
            producer.append(NewRecord(record.topic, record.key, record.value, headers, record.partition))
        producer.append(NewRecord(result.topic, result.key, b"{}", (), result.partition))
        other = json.loads(result.value) | {"pipeline": "nobody"}
        producer.append(
            NewRecord(result.topic, result.key, json.dumps(other).encode(), result.headers, result.partition)
        )
        assert producer.flush(20) == 0
        producer.close()
        roles.until(lambda: roles.accountant.dead_letters == len(forged) + 2)
        balance = roles.accountant.totals("gate")["level"]
    assert (balance.accepted, balance.results, balance.holds) == (FRAMES, FRAMES, True)
    letters = [decode_dead_letter(r.key, r.value, r.headers) for r in everything(log, names.topic("dead_letter"))]
    assert {letter.reason for letter in letters} == {"schema"}
    assert sum(letter.record.value == frame.value and letter.whole for letter in letters) == len(forged)
    assert sum("epoch" in letter.error for letter in letters) >= 1


def test_a_corrupt_picture_is_a_decode_error_and_nothing_stops(system: tuple[RecordLog, Names]) -> None:
    log, names = system
    grey = np.full((48, 64, 3), 90, np.uint8)
    pictures = [(3000 * n, grey) for n in range(6)]
    source = ListSource("gate", [Connection(pictures)], SourceKind.FILE)
    with running(_Flipping(log), names) as roles:
        roles.ingest(source)
        roles.until(lambda: roles.accountant.is_finished("gate"))
        balance = roles.accountant.totals("gate")["level"]
    assert dict(balance.reasons) == {"decode_error": 2}
    assert (balance.accepted, balance.results, balance.holds) == (6, 4, True)


class _Flipping:
    """A log whose producers cut the pictures of frames 2 and 4."""

    def __init__(self, log: RecordLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def producer(self) -> Any:
        producer = self._log.producer()
        append = producer.append

        def spoil(record: NewRecord, done: Any = None) -> None:
            seq = dict(record.headers).get("frame_seq")
            if record.topic.endswith("frames") and seq in (b"2", b"4") and record.value:
                value = record.value[:40] if seq == b"2" else b""
                record = NewRecord(record.topic, record.key, value, record.headers, record.partition)
            append(record, done)

        producer.append = spoil  # type: ignore[method-assign]
        return producer


def test_a_live_source_is_shown_in_time_and_accounted(system: tuple[RecordLog, Names]) -> None:
    log, names = system
    pictures = [(3000 * n, np.full((64, 96, 3), 20 + n * 5, np.uint8)) for n in range(30)]
    source = ListSource("gate", [Connection(pictures)], SourceKind.LIVE, pace_s=1 / 30)
    stream = StreamMessage("gate", "udp://127.0.0.1:5000", ("level",), mixed=True)
    rules = IngestSettings(JpegCodec(), rules=ReconnectRules(first_s=0.1, lease_s=3))
    with running(log, names) as roles:
        roles.until(lambda: len(roles.accountant._consumer.assignment()) == 6)
        role = LogIngest(log, names, source, stream, "ingest-1", rules, CLOCK, _wait)
        role.run()
        roles.until(lambda: len(roles.sink.frames) == 30 and _in_flight(roles) == 0)
        balance = roles.accountant.totals("gate")["level"]
    assert balance.holds and balance.accepted == 30
    assert set(dict(balance.reasons)) <= {"stale", "overload"}, "what was shed has a name"
    assert balance.results >= 15
    assert [s.frame.frame_seq for s in roles.sink.frames] == list(range(30))
    for shown in roles.sink.frames:
        assert shown.deadline_mono_ns is not None
        (overlay,) = shown.overlays
        for box, origin in zip(overlay.boxes.xyxy, overlay.origin, strict=True):
            assert origin != 0 or abs(box[0] - (20 + shown.frame.frame_seq * 5) / 4) < 1, (
                "a measured box on its own frame"
            )


def _in_flight(roles: Roles) -> int:
    balance = roles.accountant.totals("gate").get("level")
    return balance.in_flight if balance else -1
