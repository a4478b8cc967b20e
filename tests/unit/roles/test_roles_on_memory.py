"""What the roles promise beyond the stages, on the log in memory: attempts, restarts, fencing, sizes, deletions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from serving.clock import NS_PER_S, SystemClock
from serving.errors import EngineFailed, LogUnavailable, ServingError
from serving.frames import DropReason, Frame, SourceKind, StreamInfo, TimelineRecord
from serving.murmur2 import partition_of
from serving.ports_log import Committed, GroupOptions, LogRecord, Polled, TopicPartition
from serving.preprocess.jpeg import JpegCodec
from serving.records import (
    AttemptMark,
    FrameMessage,
    StreamMessage,
    decode_frame,
    decode_outcome,
    decode_result,
    encode_frame,
)
from serving.roles.accountant import LogAccountant
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.jobs import CLEAN, WorkerSettings
from serving.roles.ledger import read_ledger
from serving.roles.names import Names
from serving.roles.progress import Progress
from serving.roles.sender import Sender
from serving.roles.timelines import LogClaims, Timelines
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.streams.worker import Pipeline, Worker
from serving.tasks.detection import TASK
from serving.testing.hand_clock import HandClock
from serving.testing.list_source import Connection, ListSource
from serving.testing.memory_log import MemoryLog
from serving.testing.memory_reader import MemoryReader
from serving.types import Detections, ImageSize, InferRequest, InferResponse

NAMES = Names("t.")
JPEG = JpegCodec().encode(np.full((48, 64, 3), 90, np.uint8))
POISON = JpegCodec().encode(np.full((48, 64, 3), 200, np.uint8))
BOX = Detections(np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64))
PLACE = TopicPartition("t.frames", 0)
INFO = StreamInfo("gate", SourceKind.FILE, Fraction(1, 90_000), 64, 48)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({NAMES.topic(t): 1 for t in ("frames", "results", "outcomes", "timelines", "dead_letter")})


def answer(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
    return [InferResponse(BOX, ImageSize(64, 48), {"infer": 1.0}) for _ in requests]


def pipeline(infer: Any = answer) -> Pipeline:
    return Pipeline("person", 1, "detection", infer, lambda r: TASK.to_document(r, ("thing",)))


def claim(
    log: MemoryLog, ingest_id: str = "ingest-1", kind: SourceKind = SourceKind.FILE, source: str = "gate"
) -> LogClaims:
    timelines, sender = Timelines(log, NAMES), Sender(log.producer())
    claims = LogClaims(timelines, sender, NAMES, ingest_id, lambda: replace(INFO, kind=kind))
    draft = TimelineRecord(source, 0, ingest_id, INFO.time_base, 0, 0, None, ("person",))
    assert claims.claim(draft) is not None
    return claims


def write_frames(
    log: MemoryLog, seqs: Sequence[int], payload: bytes = JPEG, source: str = "gate", **changes: Any
) -> None:
    sender = Sender(log.producer())
    for seq in seqs:
        frame = Frame(source, 1, seq, seq * 40_000_000, seq * 3600, INFO.time_base, ("person",), 0, **changes)
        sender.send(PLACE.topic, encode_frame(FrameMessage(frame, 64, 48), payload), None)
    sender.flush(5)


def records(log: MemoryLog, topic: str, decode: Callable[..., Any]) -> list[Any]:
    reader = log.reader({TopicPartition(NAMES.topic(topic), 0): 0})
    return [decode(r.key, r.value, r.headers) for r in reader.poll(0.0, 10_000).records]


def everything(log: MemoryLog, topic: str) -> Sequence[LogRecord]:
    return log.reader({TopicPartition(NAMES.topic(topic), 0): 0}).poll(0.0, 10_000).records


def all_results(log: MemoryLog) -> list[Any]:
    reader = log.reader({TopicPartition(NAMES.topic("results"), n): 0 for n in range(2)})
    return [decode_result(r.key, r.value, r.headers) for r in reader.poll(0.0, 10_000).records]


class Died(Exception):
    """What the process would not survive."""


def deadly(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
    if any(request.encoded == POISON for request in requests):
        raise Died
    return answer(requests)


def worked(log: MemoryLog, until: Callable[[LogWorker], bool], infer: Any = answer, **settings: Any) -> LogWorker:
    """A worker that runs until the condition holds; patient, as it works in real time on a machine that may be busy."""
    settings = {"delay_ns": 60 * NS_PER_S} | settings
    role = Worker([pipeline(infer)], transport=LogTransport(JpegCodec()))
    worker = LogWorker(log, NAMES, role, WorkerSettings(**settings), SystemClock(), lambda: None)
    step = worker.step
    rounds = iter(range(400))

    def once(timeout_s: float = 0.02) -> None:
        step(timeout_s)
        if until(worker):
            worker.stop()
        assert next(rounds, None) is not None, "the condition was never met"

    worker.step = once  # type: ignore[method-assign]
    worker.run()
    return worker


def committed(log: MemoryLog) -> Committed | None:
    group = GroupOptions("t.worker-person")
    probe = log.consumer([PLACE.topic], group)
    found = probe.committed([PLACE])[PLACE]
    probe.close()
    return found


# -- progress ---------------------------------------------------------------------------------------------------------


def test_nothing_is_committed_beyond_the_first_unfinished_record() -> None:
    progress = Progress(10)
    for offset, parts in ((10, 1), (11, 2), (12, 0), (13, 1)):
        progress.read(offset, parts)
    assert (progress.safe, progress.open) == (10, 3)
    progress.done(13)
    progress.done(11)
    assert progress.safe == 10
    progress.done(10)
    assert progress.safe == 11, "one of two parts is not done"
    progress.done(11)
    assert (progress.safe, progress.open) == (14, 0)
    progress.done(11)
    assert progress.safe == 14, "an acknowledgement that comes twice changes nothing"


# -- worker -----------------------------------------------------------------------------------------------------------


def test_every_frame_has_its_result_and_the_position_follows(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, range(5))
    worker = worked(log, lambda w: len(records(log, "results", decode_result)) == 5)
    assert worker.counters["analysed"] == 5
    assert committed(log) == Committed(5, CLEAN), "it left in good order"
    assert [m.posting.key.frame_seq for m in records(log, "results", decode_result)] == list(range(5))


def test_the_position_stays_while_the_results_are_not_acknowledged(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, range(3))
    role = Worker([pipeline()], transport=LogTransport(JpegCodec()))
    worker = LogWorker(log, NAMES, role, WorkerSettings(), SystemClock(), lambda: None)
    worker.step()
    part = worker._parts[PLACE]
    assert (part.progress.open, part.progress.safe) == (3, 0)
    worker._commit([PLACE])
    worker._consumer.close()
    assert committed(log) == Committed(0, CLEAN)


def test_f2_who_gets_back_what_it_alone_had_goes_on_at_once_and_anybody_else_is_careful(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, range(3))
    settings = WorkerSettings()

    def another() -> LogWorker:
        role = Worker([pipeline()], transport=LogTransport(JpegCodec()))
        return LogWorker(log, NAMES, role, settings, SystemClock(), lambda: None)

    first = another()
    first.step()
    log.expire(first._consumer)  # type: ignore[arg-type]
    first.step()  # the partition is lost
    first.step()  # and given back
    assert first._parts[PLACE].careful == 0, "it has lived through all that it had in flight"
    second = another()
    log.expire(first._consumer)  # type: ignore[arg-type]
    second.step()
    assert second._parts[PLACE].careful == settings.in_flight, "the first may have ended by one of them"
    first._consumer.close()
    second._parts[PLACE].progress.done(0)
    second._commit([PLACE])
    log.expire(second._consumer)  # type: ignore[arg-type]
    second.step()
    second.step()
    assert second._parts[PLACE].careful == settings.in_flight, "not all that the first left had been tried"
    second._consumer.close()


def test_f2_a_record_whose_claim_cannot_be_looked_up_is_kept_until_it_can(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(log)
    write_frames(log, range(2))
    bounds, poll, refused = log.bounds, MemoryReader.poll, list[str]()

    def is_away(topic: str) -> bool:
        return topic == NAMES.topic("timelines") and len(refused) < 3

    def no_bounds(places: list[TopicPartition], timeout_s: float = 1.0) -> dict[TopicPartition, tuple[int, int]]:
        if is_away(places[0].topic):
            refused.append(places[0].topic)
            raise LogUnavailable("no broker answers")
        return bounds(places)

    def no_records(reader: MemoryReader, timeout_s: float, most: int = 500) -> Polled:
        read = reader.assignment()
        return Polled((), ()) if read and is_away(read[0].topic) else poll(reader, timeout_s, most)

    monkeypatch.setattr(log, "bounds", no_bounds)
    monkeypatch.setattr(MemoryReader, "poll", no_records)
    worker = worked(log, lambda w: len(records(log, "results", decode_result)) == 2)
    assert len(refused) == 3, "it was away three times"
    assert worker.counters["refused"] == 0
    assert committed(log) == Committed(2, CLEAN)


def test_f11_a_record_that_ends_the_process_is_poison_at_its_third_attempt(log: MemoryLog) -> None:
    """Each life of the worker dies on frame 1: in flight without a mark, then alone with its first mark and second."""
    claim(log)
    write_frames(log, [0])
    write_frames(log, [1], payload=POISON)
    write_frames(log, [2])
    for life in range(3):
        with pytest.raises(Died):
            _die(log, deadly)
        at = committed(log)
        mark = AttemptMark.parse(at.metadata) if at else None
        assert mark == (None if life == 0 else AttemptMark(1, life))
    worked(log, lambda w: len(records(log, "results", decode_result)) >= 3, deadly)
    ends = {m.posting.key.frame_seq: m.posting.outcome for m in records(log, "results", decode_result)}
    assert ends[1].reason == "poison" and ends[1].attempt == 3
    assert ends[0].result is not None and ends[2].result is not None


def test_f11_the_neighbour_of_poison_is_not_blamed_for_it() -> None:
    """Two partitions, poison in one: the record of the other is never at hand when the process ends."""
    log = MemoryLog({NAMES.topic(t): 2 for t in ("frames", "results", "outcomes", "timelines", "dead_letter")})
    names = {partition_of(name.encode(), 2): name for name in ("gate", "hall", "roof", "door")}
    bad, good = names[0], names[1]
    for source in (bad, good):
        claim(log, source=source)
    write_frames(log, range(3), POISON, source=bad)
    write_frames(log, range(3), source=good)
    for _ in range(8):  # of each poisonous frame two lives, and the first without a mark
        with pytest.raises(Died):
            _die(log, deadly)
        if len([m for m in all_results(log) if m.posting.outcome.reason == "poison"]) == 2:
            break
    ends = {m.posting.key[:3:2]: m.posting.outcome for m in all_results(log)}
    assert all(ends[good, n].result is not None for n in range(3)), ends
    assert ends[bad, 0].reason == ends[bad, 1].reason == "poison"


def _die(log: MemoryLog, infer: Any) -> None:
    """A worker whose process ends inside a call: what it had acknowledged is committed, nothing else."""
    role = Worker([pipeline(infer)], transport=LogTransport(JpegCodec()))
    worker = LogWorker(log, NAMES, role, WorkerSettings(), SystemClock(), lambda: None)
    for _ in range(20):
        worker.step(0.0)
        try:
            worker.analyst.turn()
            worker._commit(list(worker._parts))
        except BaseException:
            log.expire(worker._consumer)  # type: ignore[arg-type]
            raise


def test_an_error_of_every_attempt_is_a_dead_letter_and_the_next_frame_is_fine(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, range(2))
    calls = iter(range(100))

    def failing(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        return answer(requests) if next(calls) >= 3 else [EngineFailed("broke")]

    worked(log, lambda w: len(records(log, "results", decode_result)) == 2, failing)
    first, second = (m.posting.outcome for m in records(log, "results", decode_result))
    assert first.reason == "retry_exhausted" and second.result is not None


def test_a_file_waits_on_the_log_and_not_in_memory(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, range(60))
    seen: list[int] = []

    def done(worker: LogWorker) -> bool:
        seen.extend(part.progress.open for part in worker._parts.values())
        return len(records(log, "results", decode_result)) == 60

    worked(log, done, in_flight=6)
    assert {m.posting.outcome.status.name for m in records(log, "results", decode_result)} == {"RESULT"}


def test_boxes_of_a_smaller_picture_are_in_source_pixels(log: MemoryLog) -> None:
    claim(log)
    frame = Frame("gate", 1, 0, 0, 0, INFO.time_base, ("person",), 0)
    sender = Sender(log.producer())
    sender.send(PLACE.topic, encode_frame(FrameMessage(frame, 128, 96, Fraction(1, 2)), JPEG), 0)
    sender.flush(5)
    worked(log, lambda w: len(records(log, "results", decode_result)) == 1)
    (message,) = records(log, "results", decode_result)
    assert message.posting.outcome.result.result.xyxy.tolist() == [[2, 4, 6, 8]]
    assert message.answer["detections"][0]["xyxy"] == [2, 4, 6, 8] and message.image == (128, 96)


# -- ingest and claims ------------------------------------------------------------------------------------------------


def test_the_higher_epoch_fences_the_lower(log: MemoryLog) -> None:
    first = claim(log, "ingest-1")
    second = claim(log, "ingest-2")
    assert second.held is not None and second.held.claim.epoch == 2
    draft = TimelineRecord("gate", 0, "ingest-1", INFO.time_base, 0, 0, None, ("person",))
    assert first.claim(draft) is None, "it stops, until the source is given to it anew"
    assert second.claim(replace(draft, ingest_id="ingest-2")) is not None


def test_f10_an_ingester_that_sees_a_higher_epoch_stops_its_source(log: MemoryLog) -> None:
    clock = HandClock()
    grey = np.zeros((48, 64, 3), np.uint8)

    def pictures() -> Iterator[tuple[int, Any]]:
        for n in range(100):
            clock.advance(100_000_000)
            if n == 10:
                claim(log, "ingest-2")
            yield 9000 * n, grey

    source = ListSource("gate", [Connection(pictures())], SourceKind.LIVE, clock=clock)  # type: ignore[arg-type]
    stream = StreamMessage("gate", "udp://127.0.0.1:5000", ("person",), mixed=True)
    role = LogIngest(log, NAMES, source, stream, "ingest-1", IngestSettings(JpegCodec()), clock, lambda s: False)
    role.run()
    assert role.fenced
    written = records(log, "frames", lambda k, v, h: decode_frame(k, v, h, 0))
    assert 10 <= len(written) <= 10 + 6, "it looks twice a second"
    timelines = Timelines(log, NAMES)
    timelines.catch_up()
    newest = timelines.register.newest("gate")
    assert newest is not None and (newest.epoch, newest.ingest_id) == (2, "ingest-2")


def test_of_two_claims_of_one_number_the_first_owns_it(log: MemoryLog) -> None:
    claims = [
        LogClaims(Timelines(log, NAMES), Sender(log.producer()), NAMES, f"ingest-{n}", lambda: INFO) for n in range(2)
    ]
    draft = TimelineRecord("gate", 0, "x", INFO.time_base, 0, 0, None, ("person",))
    catch_up = claims[1]._timelines.catch_up

    def overtaken(timeout_s: float = 10.0) -> None:
        """Between reading and writing of the second, the first gets its number."""
        catch_up(timeout_s)
        if claims[0].held is None:
            assert claims[0].claim(draft) is not None

    claims[1]._timelines.catch_up = overtaken  # type: ignore[method-assign]
    assert claims[1].claim(draft) is None
    assert claims[0].held is not None and claims[0].held.claim.epoch == 1
    claims[0].ended(1, 5, last=True)
    compacted = {record.key: record for record in everything(log, "timelines")}  # the last record of each key stays
    assert [record.value is None for record in compacted.values()] == [False, True], "the loser's is a tombstone"
    other = Timelines(log, NAMES)
    for record in sorted(compacted.values(), key=lambda record: record.offset):
        other._apply(record)
    assert other.register.owner("gate", 1) == "ingest-0" and other.ended("gate") == {1: 5} and other.refused == 0


def ingested(log: MemoryLog, picture: Any, frames: int = 3, **settings: Any) -> list[FrameMessage]:
    source = ListSource("gate", [Connection([(3600 * n, picture) for n in range(frames)])], SourceKind.FILE)
    stream = StreamMessage("gate", "file:list", ("person",), mixed=True)
    codec = JpegCodec()
    role = LogIngest(
        log, NAMES, source, stream, "ingest-1", IngestSettings(codec, **settings), HandClock(), lambda s: False
    )
    role.run()
    return records(log, "frames", lambda k, v, h: decode_frame(k, v, h, 0))


def test_f16_a_picture_too_large_is_made_smaller_once_or_dropped_by_name(log: MemoryLog) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (480, 640, 3), np.uint8)
    smaller = ingested(log, noise, max_payload=60_000, reduced_side=160)
    assert all(m.scale == Fraction(1, 4) and (m.width, m.height) == (640, 480) for m in smaller)
    other = MemoryLog({NAMES.topic(t): 1 for t in ("frames", "results", "outcomes", "timelines", "dead_letter")})
    dropped = ingested(other, noise, max_payload=5_000, reduced_side=320)
    assert [m.record.reason for m in dropped] == [DropReason.TOO_LARGE] * 3  # type: ignore[union-attr]


def test_the_end_of_a_file_is_told_with_its_number_of_frames(log: MemoryLog) -> None:
    ingested(log, np.zeros((48, 64, 3), np.uint8), 4)
    timelines = Timelines(log, NAMES)
    timelines.catch_up()
    assert timelines.ended("gate") == {1: 4} and timelines.ended("nobody") is None


class OneByOne:
    """A session that shapes its own requests."""

    def ask(self, request: InferRequest, infer: Any, pts_ns: int) -> InferResponse | ServingError:
        answered: InferResponse | ServingError = infer([request])[0]
        return answered

    def update(self, result: Any, pts_ns: int, picture: Any) -> Any:
        return result


def test_what_may_hang_is_one_call_and_not_a_batch_of_slow_ones(log: MemoryLog, clock: HandClock) -> None:
    claim(log)
    write_frames(log, range(4))
    clock.advance(NS_PER_S)
    busy: list[int] = []

    def slow(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        busy.append(clock.monotonic_ns() - (worker.analyst.busy_since_ns or 0))
        clock.advance(5 * NS_PER_S)
        return answer(requests)

    role = Worker([replace(pipeline(slow), new_session=OneByOne)], transport=LogTransport(JpegCodec()))
    worker = LogWorker(log, NAMES, role, WorkerSettings(max_batch=4), clock, lambda: None)
    worker.step(0.0)
    worker.analyst.turn()
    assert busy == [0] * 4 and worker.analyst.busy_since_ns is None


# -- accountant -------------------------------------------------------------------------------------------------------


def settled(role: LogAccountant, clock: HandClock, seconds: float = 0.0) -> None:
    clock.advance(int(seconds * 1e9))
    for _ in range(4):
        clock.advance(1_100_000_000)
        role.step(0.0)


def test_a_restart_at_any_point_gives_the_same_account(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    claim(log, kind=SourceKind.LIVE)
    write_frames(log, range(4))
    worked(log, lambda w: len(records(log, "results", decode_result)) == 4)
    first = accountant()
    settled(first, clock)
    log.expire(first._consumer)  # type: ignore[arg-type]
    second = accountant()
    settled(second, clock)
    write_frames(log, [4, 5])
    settled(second, clock, 65)
    settled(second, clock, 65)
    third = accountant()
    log.expire(second._consumer)  # type: ignore[arg-type]
    settled(third, clock, 65)
    outcomes = records(log, "outcomes", decode_outcome)
    closed = {o.key.frame_seq: o.outcome for o in outcomes if o.closed}
    assert sorted(closed) == list(range(6))
    assert [closed[n].reason for n in range(6)] == ["", "", "", "", "deadline", "deadline"]
    assert len([o for o in outcomes if o.closed]) == 6, "closed once, whoever closed it"


def test_a_file_that_is_read_a_second_time_is_closed_too(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    role = accountant()
    for times in (1, 2):
        ingested(log, np.zeros((48, 64, 3), np.uint8), 3)
        worked(log, lambda w, n=3 * times: len(records(log, "results", decode_result)) == n)  # type: ignore[misc]
        settled(role, clock)
        assert role.is_finished("gate")
    assert [(row.epoch, row.results, row.balanced) for row in read_ledger(log, NAMES)] == [(1, 3, True), (2, 3, True)]


def test_records_deleted_unread_are_named(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    claim(log)
    write_frames(log, range(6))
    role = accountant()
    log.delete_before(PLACE, 4)
    settled(role, clock)
    balance = role.totals("gate")["person"]
    assert balance.accepted == 6 and dict(balance.reasons) == {"retention": 4} and balance.in_flight == 2


def test_a_result_of_no_frame_gets_its_dead_letter_in_time(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    claim(log)
    write_frames(log, range(2))
    worked(log, lambda w: len(records(log, "results", decode_result)) == 2)
    record = log.reader({TopicPartition(NAMES.topic("results"), 0): 0}).poll(0.0).records[0]
    assert record.value is not None
    forged = json.dumps(json.loads(record.value) | {"frame_seq": 77}).encode()
    producer = log.producer()
    from serving.ports_log import NewRecord

    producer.append(NewRecord(record.topic, record.key, forged, record.headers, 0))
    producer.flush(1)
    role = accountant()
    settled(role, clock)
    assert role.dead_letters == 0
    settled(role, clock, 70)
    assert role.dead_letters == 1
