"""What a record, a stranger or a broker can do to a role: it ends for the right reason, by its name, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_roles_on_memory import (
    BOX,
    NAMES,
    PLACE,
    POISON,
    Died,
    answer,
    claim,
    committed,
    deadly,
    records,
    settled,
    worked,
    write_frames,
)

from serving.adapters.kafka.reader import _pairs
from serving.align import outbox
from serving.align.outbox import Outbox
from serving.errors import LogUnavailable, RecordInvalid, ServingError
from serving.frames import DroppedRun, DropReason, LedgerKey, Outcome
from serving.ports_log import LogRecord, NewRecord
from serving.records import (
    DeadLetter,
    OutcomeMessage,
    decode_dead_letter,
    decode_outcome,
    decode_result,
    decode_stream,
    encode_dead_letter,
    encode_frame,
    encode_outcome,
    encode_result,
)
from serving.records.frames import FrameMessage
from serving.roles.accountant import LogAccountant
from serving.roles.timelines import Timelines
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog
from serving.testing.stub_streams import a_result
from serving.types import ImageSize, InferRequest, InferResponse


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({NAMES.topic(t): 1 for t in ("frames", "results", "outcomes", "timelines", "dead_letter")})


# -- the worker -------------------------------------------------------------------------------------------------------


def test_f11_a_worker_that_ends_by_an_error_of_its_own_blames_the_record_too(log: MemoryLog) -> None:
    """It leaves its group in good order, which is no farewell: the next is careful, the third attempt is the last."""
    claim(log)
    write_frames(log, [0])
    write_frames(log, [1], payload=POISON)
    write_frames(log, [2])
    for _ in range(3):
        with pytest.raises(Died):
            worked(log, lambda worker: False, deadly)
    worked(log, lambda worker: len(records(log, "results", decode_result)) >= 3, deadly)
    ends = {m.posting.key.frame_seq: m.posting.outcome for m in records(log, "results", decode_result)}
    assert ends[1].reason == "poison" and ends[1].attempt == 3
    assert ends[0].result is not None and ends[2].result is not None
    at = committed(log)
    assert at is not None and at.offset == 3


def test_an_answer_that_is_no_number_is_a_dead_letter_and_the_next_frame_is_fine(log: MemoryLog) -> None:
    claim(log)
    write_frames(log, range(2))
    calls = iter(range(100))

    def broken(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        if next(calls):
            return answer(requests)
        return [InferResponse(replace(BOX, confidence=np.array([np.nan], np.float32)), ImageSize(64, 48), {})]

    worker = worked(log, lambda w: len(records(log, "results", decode_result)) == 2, broken, max_batch=1)
    first, second = (m.posting.outcome for m in records(log, "results", decode_result))
    assert first.reason == "retry_exhausted" and first.attempt == 1 and second.result is not None
    (letter,) = records(log, "dead_letter", decode_dead_letter)
    assert "person: an answer that is no number" in letter.error
    assert worker.worker.failures.keys() == {"person"}


# -- the accountant ---------------------------------------------------------------------------------------------------


def test_a_stranger_s_record_on_outcomes_keeps_no_accountant_from_starting(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    claim(log)
    write_frames(log, range(2))
    producer = log.producer()
    producer.append(NewRecord(NAMES.topic("outcomes"), b"nonsense", b"\xff", (), 0))
    producer.append(NewRecord(NAMES.topic("outcomes"), b"gate", None, (), 0))
    key = LedgerKey("gate", 1, 0, "person")
    encoded = encode_outcome(OutcomeMessage(key, Outcome.dropped(DropReason.STALE), True))
    producer.append(NewRecord(NAMES.topic("outcomes"), encoded.key, encoded.value, encoded.headers, 0))
    producer.flush(1)
    role = accountant()
    settled(role, clock)
    balance = role.totals("gate")["person"]
    assert (balance.accepted, balance.dropped) == (2, 1), "what was recorded before it is known"


def test_f2_a_frame_whose_claim_cannot_be_looked_up_is_accounted_for_when_it_can(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, refused = Timelines.check, list[int]()

    def away(timelines: Timelines, message: FrameMessage) -> object:
        if len(refused) < 3:
            refused.append(1)
            raise LogUnavailable("no broker answers")
        return check(timelines, message)

    monkeypatch.setattr(Timelines, "check", away)
    claim(log)
    write_frames(log, range(3))
    role = accountant()
    for _ in range(3):
        role.step(0.0)
    assert role.totals("gate") == {}
    settled(role, clock)
    assert role.totals("gate")["person"].accepted == 3 and role.dead_letters == 0


def test_text_that_cannot_be_written_on_is_refused_and_its_dead_letter_can_be(
    log: MemoryLog, clock: HandClock, accountant: Callable[[], LogAccountant]
) -> None:
    """Half a surrogate pair passes for text until somebody writes it: here everybody would, for ever."""
    claim(log)
    write_frames(log, range(1))
    encoded = encode_result(a_result("gate", 1, 0, "person"))
    document = json.loads(encoded.value or b"") | {"timings_ms": {"\ud800": "x"}}
    producer = log.producer()
    for value in (json.dumps(document).encode(), encoded.value):
        producer.append(NewRecord(NAMES.topic("results"), encoded.key, value, encoded.headers, 0))
    producer.flush(1)
    role = accountant()
    settled(role, clock)
    assert role.dead_letters == 1 and role.totals("gate")["person"].results == 1
    assert [m.outcome.status.name for m in records(log, "outcomes", decode_outcome)][:1] == ["RESULT"]
    with pytest.raises(RecordInvalid):
        decode_stream(b"gate", json.dumps({"address": "rtsp://h/\ud800", "pipelines": ["p"]}).encode(), ())


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_dead_letter_always_fits_and_is_always_text() -> None:
    record = LogRecord("frames", 0, 1, b"k" * (4 << 20), b"v", (("a", b"b"),))
    letter = DeadLetter.of(record, "schema", RecordInvalid("frames.key: \ud800"))
    encoded = encode_dead_letter(letter)
    assert len(encoded.key) <= 16 << 10
    back = decode_dead_letter(*encoded)
    assert back.record.value == b"v" and "\\ud800" in back.error


def test_a_header_name_that_is_no_text_leaves_a_record_without_headers() -> None:
    class Message:
        def headers(self) -> None:
            raise SystemError("returned a result with an exception set")

    assert _pairs(Message()) == []  # type: ignore[arg-type]


def test_a_run_of_an_outage_of_hours_is_written_in_records_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_RUN", 10)
    box = Outbox(max_pictures=1)
    for seq in range(0, 50, 2):
        box.put(DroppedRun("gate", 1, seq, seq + 1, DropReason.OVERLOAD, ("person",)))
    runs: list[tuple[int, int]] = []
    while isinstance(run := box.peek(), DroppedRun):
        encode_frame(FrameMessage(run))
        runs.append((run.first_seq, run.last_seq))
        box.acknowledged()
    assert runs == [(n, n + 9) for n in range(0, 50, 10)]


def test_nobody_asks_for_a_picture_larger_than_a_memory(log: MemoryLog) -> None:
    write_frames(log, [0])
    (record,) = log.reader({PLACE: 0}).poll(0.0).records
    from serving.records import decode_frame

    for more in ((("scale", b"1/2"),), (("scale", b"1/2"), ("width", b"65536"), ("height", b"65536"))):
        names = {name for name, _ in more}
        headers = tuple(h for h in record.headers if h[0] not in {*names, "width", "height"}) + more
        with pytest.raises(RecordInvalid, match=r"frames\.(scale|width)"):
            decode_frame(record.key, record.value, headers, 0)
