"""What is written comes back; what is not a record of its topic is refused with the field's name, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_data import (  # type: ignore[import-not-found]
    JPEG,
    detections,
    frames,
    outcomes,
    result_message,
    results,
    runs,
    streams,
    timelines,
)

from serving.errors import LogUnavailable, RecordInvalid
from serving.frames import DeadReason, DroppedRun, DropReason, Frame, LedgerKey, Outcome
from serving.ports_log import LogRecord
from serving.records import (
    AttemptMark,
    DeadLetter,
    FrameMessage,
    OutcomeMessage,
    ResultMessage,
    StreamMessage,
    TimelineMessage,
    decode_dead_letter,
    decode_frame,
    decode_outcome,
    decode_result,
    decode_stream,
    decode_timeline,
    encode_dead_letter,
    encode_frame,
    encode_outcome,
    encode_result,
    encode_stream,
    encode_timeline,
)
from serving.types import Detections


@given(frames() | runs())
def test_frames(made: tuple[FrameMessage, bytes | None]) -> None:
    message, payload = made
    assert decode_frame(*encode_frame(message, payload), arrival_mono_ns=123) == message


@given(timelines())
def test_timelines(message: TimelineMessage) -> None:
    assert decode_timeline(*encode_timeline(message)) == message


@given(streams)
def test_streams(message: StreamMessage) -> None:
    assert decode_stream(*encode_stream(message)) == message


def test_a_stream_taken_away() -> None:
    assert decode_stream(b"gate", None) is None


@given(outcomes)
def test_outcomes(message: OutcomeMessage) -> None:
    assert decode_outcome(*encode_outcome(message)) == message


def test_the_outcome_of_a_result_keeps_what_a_merge_needs() -> None:
    message = result_message()
    outcome = message.posting.outcome
    back = decode_outcome(*encode_outcome(OutcomeMessage(message.posting.key, outcome, True, 40_000_000)))
    assert back.closed and back.pts_ns == 40_000_000 and back.outcome.result is not None and outcome.result is not None
    for name in ("model", "model_version", "task", "payload_hash"):
        assert getattr(back.outcome.result, name) == getattr(outcome.result, name)
    assert back.outcome.result.detections is None


@given(results())
def test_results(message: ResultMessage) -> None:
    back = decode_result(*encode_result(message))
    assert (back.model, back.times, back.image, back.traceparent) == (
        message.model, message.times, message.image, message.traceparent,
    )  # fmt: skip
    assert back.posting.key == message.posting.key and back.posting.pts_ns == message.posting.pts_ns
    assert back.answer == message.answer
    ours, theirs = message.posting.outcome, back.posting.outcome
    assert (theirs.status, theirs.reason, theirs.attempt) == (ours.status, ours.reason, ours.attempt)
    if ours.result is not None and theirs.result is not None:
        assert theirs.result.payload_hash == ours.result.payload_hash
        assert type(theirs.result.result) is type(ours.result.result)


@pytest.mark.parametrize("tracked", [True, False])
def test_boxes_come_back_with_their_tracks_or_with_none(tracked: bool) -> None:
    found = detections(tracked)
    back = decode_result(*encode_result(result_message(found=found)))
    assert back.posting.outcome.result is not None
    boxes = back.posting.outcome.result.result
    assert isinstance(boxes, Detections)
    np.testing.assert_array_equal(boxes.xyxy, found.xyxy)
    np.testing.assert_array_equal(boxes.confidence, found.confidence)
    assert (boxes.tracker_id is None) == (found.tracker_id is None)
    if found.tracker_id is not None and boxes.tracker_id is not None:
        np.testing.assert_array_equal(boxes.tracker_id, found.tracker_id)


@given(st.binary(max_size=200), st.none() | st.binary(max_size=20), st.sampled_from([r.value for r in DeadReason]))
def test_dead_letters_keep_the_record_byte_for_byte(value: bytes, key: bytes | None, reason: str) -> None:
    record = LogRecord("frames", 3, 99, key, value, (("a", b"\xff"), ("topic", b"not ours"), ("a", b"")))
    letter = DeadLetter.of(record, reason, LogUnavailable("why"))
    back = decode_dead_letter(*encode_dead_letter(letter))
    assert back == letter and back.whole and back.error_code == "log_unavailable"


def test_a_dead_letter_of_a_tombstone() -> None:
    letter = DeadLetter.of(LogRecord("frames", 0, 1, b"k", None), "schema", LogUnavailable("why"))
    assert decode_dead_letter(*encode_dead_letter(letter)).record.value is None


def test_of_a_value_over_the_limit_the_beginning_is_kept_with_size_and_hash() -> None:
    value = bytes(range(256)) * (20 << 10)
    letter = DeadLetter.of(LogRecord("frames", 0, 1, b"k", value), "schema", LogUnavailable("why"))
    back = decode_dead_letter(*encode_dead_letter(letter))
    assert back.record.value == value[: 64 << 10]
    assert not back.whole and back.size == len(value) and back.sha256 == letter.sha256


def test_attempt_marks() -> None:
    assert AttemptMark.parse(AttemptMark(17, 2).text()) == AttemptMark(17, 2)
    assert AttemptMark(17, 2).text() == '{"offset":17,"attempt":2}'
    for text in (
        "",
        "{}",
        "nonsense",
        "[]",
        '{"offset":-1,"attempt":1}',
        '{"offset":1,"attempt":"2"}',
        "1",
        "[" * 5000,
    ):
        assert AttemptMark.parse(text) is None


# -- strictness -------------------------------------------------------------------------------------------------------

FRAME = encode_frame(
    FrameMessage(Frame("gate", 1, 5, 40_000_000, 3600, Fraction(1, 90_000), ("person",), 0, None), 640, 480), JPEG
)
RUN = encode_frame(FrameMessage(DroppedRun("gate", 1, 5, 9, DropReason.PREROLL, ("person",))))


def with_header(name: str, value: str | bytes | None, record: Any = FRAME) -> Any:
    data = value.encode() if isinstance(value, str) else value
    headers = [h for h in record.headers if h[0] != name] + ([(name, data)] if data is not None else [])
    return record._replace(headers=tuple(headers))


BAD_HEADERS = [
    ("epoch", None), ("epoch", "0"), ("epoch", "-1"), ("epoch", "1.0"), ("epoch", "٣"), ("epoch", ""),
    ("epoch", "99999999999999999999"), ("epoch", b"\xff"), ("epoch", "01"), ("epoch", " 1"), ("epoch", "1\n"),
    ("frame_seq", None), ("frame_seq", "-1"), ("pts", None), ("pts", "1e3"), ("pts", "-9223372036854775808"),
    ("pts_ns", None), ("pts_ns", "-5"), ("pts_ns", "9223372036854775808"), ("time_base", None),
    ("time_base", "1/0"), ("time_base", "0/1"), ("time_base", "-1/90000"), ("time_base", "0.04"),
    ("pipelines", None), ("pipelines", ""), ("pipelines", "a,a"), ("pipelines", "a/b"), ("pipelines", "a,,b"),
    ("analyse", "yes"), ("analyse", "1"), ("pts_source", "dts"), ("capture_quality", "exact"),
    ("capture_ns", "now"), ("raw_pts", "x"), ("dts", "x"), ("last_seq", "9"),
    ("width", "0"), ("scale", "3/2"),
    ("traceparent", "00-0-0-0"), ("ce_specversion", "0.3"),
    ("ce_type", "lockstep.frame.v2"), ("ce_type", "lockstep.result.v1"), ("epoch", "1" * 2000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS, ids=lambda v: repr(v)[:24])
def test_a_wrong_header_is_named(name: str, value: str | bytes | None) -> None:
    with pytest.raises(RecordInvalid) as caught:
        decode_frame(*with_header(name, value), arrival_mono_ns=0)
    assert caught.value.field == name
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", ["3", "105005", "x"])
def test_a_run_has_an_end_within_bounds(value: str) -> None:
    with pytest.raises(RecordInvalid) as caught:
        decode_frame(*with_header("last_seq", value, RUN), arrival_mono_ns=0)
    assert caught.value.field == "last_seq"


@pytest.mark.parametrize("key", [None, b"", b"a/b", b"x" * 300, b"\xff", b"a|b", "tür".encode(), b"a\n", b".hidden"])
def test_a_source_name_that_is_none(key: bytes | None) -> None:
    for decode, record in ((decode_result, encode_result(result_message())), (decode_stream, FRAME)):
        with pytest.raises(RecordInvalid) as caught:
            decode(key, record.value, record.headers)  # type: ignore[operator]
        assert caught.value.field == "key"
    with pytest.raises(RecordInvalid):
        decode_frame(key, FRAME.value, FRAME.headers, 0)


def test_a_drop_reason_of_no_list() -> None:
    with pytest.raises(RecordInvalid) as caught:
        decode_frame(*with_header("drop_reason", "because", RUN), arrival_mono_ns=0)
    assert caught.value.field == "drop_reason"


def test_a_header_of_ours_twice_and_too_many_headers() -> None:
    for headers in ((*FRAME.headers, ("epoch", b"2")), tuple((f"h{n}", b"") for n in range(100))):
        with pytest.raises(RecordInvalid):
            decode_frame(FRAME.key, FRAME.value, headers, 0)


def test_headers_of_others_are_left_alone() -> None:
    headers = (*FRAME.headers, ("x-forwarded", b"\xff"), ("x-forwarded", b"2"))
    assert decode_frame(FRAME.key, FRAME.value, headers, 7).record.arrival_mono_ns == 7  # type: ignore[union-attr]


def test_a_dropped_frame_has_no_payload() -> None:
    with pytest.raises(RecordInvalid) as caught:
        decode_frame(RUN.key, JPEG, RUN.headers, 0)
    assert caught.value.field == "value"
    with pytest.raises(ValueError, match="no payload"):
        encode_frame(FrameMessage(DroppedRun("gate", 1, 5, 9, DropReason.PREROLL, ("person",))), JPEG)


def test_a_frame_whose_picture_is_missing_is_a_record_all_the_same() -> None:
    record = decode_frame(FRAME.key, b"", FRAME.headers, 0).record
    assert isinstance(record, Frame) and record.picture is None and record.analyse


def test_an_address_with_a_password_is_not_written() -> None:
    for address in ("rtsp://admin:secret@camera/", "rtsp://admin:{x}y@camera/", "", "rtsp://a\n"):
        with pytest.raises(RecordInvalid) as caught:
            encode_stream(StreamMessage("gate", address, ("person",)))
        assert "secret" not in str(caught.value)


DECODERS: dict[str, Callable[..., Any]] = {
    "frames": lambda k, v, h: decode_frame(k, v, h, 0),
    "results": decode_result,
    "outcomes": decode_outcome,
    "timelines": decode_timeline,
    "streams": decode_stream,
    "dead_letter": decode_dead_letter,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
header_names = st.sampled_from(["epoch", "frame_seq", "pts", "payload_hash", "topic", "reason", "size"]) | st.text(
    max_size=5
)


@pytest.mark.parametrize("topic", DECODERS)
@given(
    key=st.none() | st.binary(max_size=12) | st.just(b"gate"),
    value=st.none() | st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
    headers=st.lists(st.tuples(header_names, st.binary(max_size=8)), max_size=6),
)
def test_anything_decodes_or_is_refused(topic: str, key: Any, value: Any, headers: list[tuple[str, bytes]]) -> None:
    try:
        DECODERS[topic](key, value, tuple(headers))
    except RecordInvalid as error:
        assert error.field


@pytest.mark.parametrize(
    "value", [b"[" * 100_000, b'{"a":' * 50_000, b'{"schema":' + b"9" * 5000 + b"}", b'{"schema":NaN}', b"\xff\xfe"]
)
def test_hostile_json_is_refused(value: bytes) -> None:
    for topic in ("results", "outcomes", "timelines", "streams"):
        with pytest.raises(RecordInvalid):
            DECODERS[topic](b"gate", value, ())


@pytest.mark.parametrize(
    "value", [b"1e999", b"-1e999", b"9223372036854775808", b"[-9223372036854775809]", b"[" * 70 + b"]" * 70, b"NaN"]
)
def test_what_could_not_be_written_on_is_refused_in_any_field(value: bytes) -> None:
    record = encode_result(result_message())
    assert record.value is not None
    given = record.value[:-1] + b', "more": '
    decode_result(record.key, given + b'[9223372036854775807, -9223372036854775808, 1e300, "[[[{{{"]}', record.headers)
    with pytest.raises(RecordInvalid) as caught:
        decode_result(record.key, given + value + b"}", record.headers)
    assert caught.value.field == "value"


@given(data=st.data())
def test_one_field_replaced_decodes_or_is_refused_by_name(data: st.DataObject) -> None:
    record = encode_result(result_message())
    assert record.value is not None
    document = json.loads(record.value)
    name = data.draw(st.sampled_from(sorted(document)))
    document[name] = data.draw(json_values)
    try:
        decode_result(record.key, json.dumps(document).encode(), record.headers)
    except RecordInvalid as error:
        assert error.field


def test_another_attempt_is_another_event_and_a_repetition_is_the_same() -> None:
    def event(outcome: Outcome) -> bytes:
        message = result_message()
        changed = ResultMessage(
            type(message.posting)(LedgerKey("gate", 1, 2, "p"), 5, outcome), message.model, message.times
        )
        return dict(encode_result(changed).headers)["ce_id"]

    once = event(Outcome.dropped(DropReason.STALE, 1))
    assert once == event(Outcome.dropped(DropReason.STALE, 1)) != event(Outcome.dropped(DropReason.STALE, 2))
