"""Roles that a broker leaves alone for long: they end when told to, and hold no more than they may (G8, G9)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_roles_on_memory import INFO, NAMES, claim, records, settled, write_frames

from serving.adapters.kafka import KafkaOptions
from serving.adapters.kafka.reader import KafkaReader
from serving.clock import NS_PER_S, SystemClock
from serving.errors import LogUnavailable
from serving.frames import DroppedRun, DropReason, Frame, Picture, SourceKind, TimelineRecord
from serving.ports_log import Lost, Polled, TopicPartition
from serving.preprocess.jpeg import JpegCodec
from serving.records import (
    FrameMessage,
    StreamMessage,
    StreamState,
    decode_frame,
    decode_outcome,
    decode_timeline,
    encode_stream,
)
from serving.roles import accountant as accountant_role
from serving.roles import ingest as ingest_role
from serving.roles import main_ingest, timelines
from serving.roles.accountant import LogAccountant
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.registered import Registered
from serving.roles.sender import Sender
from serving.roles.timelines import LogClaims, Timelines
from serving.testing.hand_clock import HandClock
from serving.testing.list_source import Connection, ListSource
from serving.testing.memory_log import MemoryLog

STREAM = StreamMessage("gate", "file:list", ("person",), mixed=True)


def frames_of(log: MemoryLog) -> list[FrameMessage]:
    return records(log, "frames", lambda key, value, headers: decode_frame(key, value, headers, 0))


def place_of(message: FrameMessage) -> tuple[int, int]:
    assert isinstance(message.record, Frame)
    return message.record.epoch, message.record.frame_seq


@pytest.fixture
def log() -> MemoryLog:
    topics = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
    return MemoryLog({NAMES.topic(topic): 1 for topic in topics})


def test_g9_an_ingest_without_broker_ends_when_it_is_told_to(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds was never accepted, so nothing is lost without a name."""
    monkeypatch.setattr(ingest_role, "STOP_NS", NS_PER_S // 5)
    gone = threading.Event()

    def pictures() -> Iterator[tuple[int, Any]]:
        for n in range(50):
            if n == 3:
                log.set_down(True)
                gone.set()
            yield 3600 * n, np.zeros((48, 64, 3), np.uint8)

    source = ListSource("gate", [Connection(pictures())], SourceKind.FILE)  # type: ignore[arg-type]
    role = LogIngest(
        log, NAMES, source, STREAM, "ingest-1", IngestSettings(JpegCodec()), SystemClock(), lambda s: False
    )
    role._sender._producer._most = 5  # type: ignore[attr-defined]
    raised: list[BaseException] = []

    def run() -> None:
        try:
            role.run()
        except LogUnavailable as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert gone.wait(10)
    thread.join(0.5)
    assert thread.is_alive(), "it waits for the broker as long as nobody says otherwise"
    role.stop()
    thread.join(20)
    assert not thread.is_alive() and "found no room" in str(raised[0])


def test_f2_a_camera_leaves_a_few_old_pictures_and_the_account_of_all(log: MemoryLog) -> None:
    """A producer's own queue holds thousands; nobody needs those of half a minute ago before a fresh one."""

    def pictures() -> Iterator[tuple[int, Any]]:
        for n in range(500):
            if n in (10, 490):
                log.set_down(n == 10)
            yield 3600 * n, np.zeros((48, 64, 3), np.uint8)
        role.stop()

    source = ListSource("gate", [Connection(pictures())])  # type: ignore[arg-type]
    settings = IngestSettings(JpegCodec(), held_pictures=20, on_their_way=8)
    role = LogIngest(log, NAMES, source, STREAM, "ingest-1", settings, SystemClock(), lambda s: False)
    role.run()
    written = [message.record for message in frames_of(log)]
    runs = [(one.first_seq, one.last_seq, one.reason) for one in written if isinstance(one, DroppedRun)]
    seqs = [one.frame_seq for one in written if isinstance(one, Frame)]
    assert len(runs) == 1 and runs[0][2] is DropReason.OVERLOAD
    first, last = runs[0][:2]
    assert seqs == [*range(first), *range(last + 1, 500)], "every number once, in order"
    assert 10 <= first <= 10 + 8 + 1 and 490 - 22 <= last + 1 <= 490


@pytest.mark.parametrize("full", [False, True], ids=["the producer has room", "it has none until the camera is back"])
def test_what_a_camera_held_when_it_was_lost_is_written_at_once_and_in_its_own_size(log: MemoryLog, full: bool) -> None:
    """It comes back with a larger picture; the frames of before are of their own epoch."""

    def pictures(count: int, width: int, down: int) -> Iterator[tuple[int, Any]]:
        for n in range(count):
            if n == down:
                log.set_down(True)
            yield 3600 * n, np.zeros((48, width, 3), np.uint8)

    written: list[list[FrameMessage]] = []

    def wait(seconds: float) -> bool:
        log.set_down(full and not written)
        role._sender.poll()
        written.append(frames_of(log) if log.up else [])
        return len(written) == (3 if full else 2)

    connections = [Connection(pictures(30, 64, 10)), Connection(pictures(20, 96, -1))]  # type: ignore[arg-type]
    settings = IngestSettings(JpegCodec(), held_pictures=40, on_their_way=4)
    role = LogIngest(log, NAMES, ListSource("gate", connections), STREAM, "ingest-1", settings, SystemClock(), wait)
    role._sender._producer._most = 8 if full else 1000  # type: ignore[attr-defined]
    role.run()
    of_first, of_both = (written[-1], written[-1]) if full else written
    assert [place_of(message) for message in of_first[:30]] == [(1, n) for n in range(30)]
    assert full or len(of_first) == 30
    assert [place_of(message) for message in of_both[30:]] == [(2, n) for n in range(20)]
    for message in of_both:
        width = {1: 64, 2: 96}[message.record.epoch]
        assert isinstance(message.record, Frame) and isinstance(message.record.picture, Picture)
        assert message.width == width and message.record.picture.rgb(JpegCodec()).shape[1] == width


@pytest.mark.parametrize("written", [False, True], ids=["before it is written", "before it is acknowledged"])
def test_f2_a_claim_waits_for_a_broker_that_is_away(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """What was read of the epoch before waits in this process: it must not end, nor be fenced by its own claim."""
    monkeypatch.setattr(timelines, "READ_SECONDS", 0.05)
    waits: list[float] = []
    gives_up = [False]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        log.set_down(len(waits) < 3)

    sender = Sender(log.producer())
    claims = LogClaims(Timelines(log, NAMES), sender, NAMES, "ingest-1", lambda: INFO, wait, lambda: gives_up[0])
    draft = TimelineRecord("gate", 0, "ingest-1", INFO.time_base, 0, 0, None, ("person",))
    first = claims.claim(draft)
    send = sender.send

    def last_before_the_outage(*arguments: Any, **more: Any) -> None:
        send(*arguments, **more)
        log.set_down(True)

    if written:
        monkeypatch.setattr(sender, "send", last_before_the_outage)
    else:
        log.set_down(True)
    second = claims.claim(draft)
    assert first is not None and second is not None and (first.epoch, second.epoch) == (1, 2) and len(waits) == 3
    assert [m.claim.epoch for m in records(log, "timelines", decode_timeline)] == [1, 2], "each claim once"
    log.set_down(True)
    gives_up[0] = True
    with pytest.raises(LogUnavailable):
        claims.claim(draft)
    assert len(waits) == 3, "it is told to stop"


def test_g8_an_accountant_without_broker_closes_no_more_than_it_can_hold(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accountant_role, "MAX_UNSENT", 8)
    claim(log, kind=SourceKind.LIVE)
    role = accountant()
    for seqs in (range(10), range(10, 20)):
        write_frames(log, seqs)
        settled(role, clock)
    monkeypatch.setattr(role, "_commit", lambda numbers: None)
    log.set_down(True)
    for _ in range(10):
        clock.advance(7 * NS_PER_S)
        role.step(0.0)
    assert role._sender.waiting == 10, "the first ten; the others are due as well"
    log.set_down(False)
    settled(role, clock)
    closed = [message.key.frame_seq for message in records(log, "outcomes", decode_outcome) if message.closed]
    assert closed == list(range(20))


def test_a_position_out_of_range_is_looked_up_until_somebody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka stops to fetch there and says so once."""
    from confluent_kafka import KafkaError

    place = TopicPartition("frames", 3)
    reader = KafkaReader(KafkaOptions("127.0.0.1:9"), {place: 5})
    answers: list[Any] = [LogUnavailable("no broker"), LogUnavailable("no broker"), (7, 9)]

    def bounds(asked: list[TopicPartition], timeout_s: float) -> dict[TopicPartition, tuple[int, int]]:
        answer = answers.pop(0)
        if isinstance(answer, LogUnavailable):
            raise answer
        return {place: answer}

    monkeypatch.setattr(reader._bounds, "of", bounds)
    reader._take_error(KafkaError(KafkaError._AUTO_OFFSET_RESET), place)
    assert reader.poll(0.0) == Polled(), "no broker is no failure: it is asked again"
    polled = reader.poll(0.0)
    assert polled.lost == (Lost(place, 5, 6),) and reader.position(place) == 7 and answers == []
    reader.close()


class Reading:
    """A role that reads a source."""

    def __init__(self, source_id: str) -> None:
        self.stream, self.stopped = StreamMessage(source_id, "rtsp://10.0.0.7/", ("person",)), threading.Event()

    def stop(self) -> None:
        self.stopped.set()


def test_a_source_that_is_taken_away_ends_in_a_process_of_its_own_too(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_ingest, "LOOK_S", 0.01)
    sender, roles, ending = Sender(log.producer()), [Reading("gate"), Reading("gate-sound")], threading.Event()

    def write(role: Reading, state: StreamState) -> None:
        stream = StreamMessage(role.stream.source_id, "rtsp://10.0.0.7/", ("person",), supervised=False, state=state)
        sender.send(NAMES.topic("streams"), encode_stream(stream), None)
        sender.flush(1)

    for role in roles:
        write(role, StreamState.ACTIVE)
    registered = Registered(log, NAMES)
    registered.catch_up()
    watch = threading.Thread(target=main_ingest._end_removed, args=(registered, roles, ending), daemon=True)
    watch.start()
    assert not roles[0].stopped.wait(0.2)
    write(roles[0], StreamState.REMOVED)
    assert roles[0].stopped.wait(5) and not roles[1].stopped.is_set() and not ending.is_set()
    write(roles[1], StreamState.REMOVED)
    assert ending.wait(5) and roles[1].stopped.is_set()
    watch.join(5)
