"""Registered sources: what an older record means, how a source is taken away, and what is not written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from serving.errors import RecordInvalid
from serving.records import StreamMessage, StreamState, decode_stream, encode_forgotten_stream, encode_stream

GATE = StreamMessage("gate", "rtsp://10.0.0.7/live", ("person",))


def test_a_record_of_six_fields_has_the_defaults_of_all_others() -> None:
    value = {"schema": 1, "source_id": "gate", "address": "rtsp://10.0.0.7/live", "pipelines": ["person"]}
    assert decode_stream(b"gate", json.dumps(value).encode()) == GATE
    assert GATE.active and GATE.supervised and GATE.track == GATE.mask == GATE.publish == ""


def test_a_removed_source_is_still_named_and_a_forgotten_one_is_not() -> None:
    removed = decode_stream(*encode_stream(replace(GATE, state=StreamState.REMOVED)))
    assert removed is not None and not removed.active
    assert decode_stream(*encode_forgotten_stream("gate")) is None


@pytest.mark.parametrize("source_id", ["gates/1", "g" * 300, "", "-gate", "gate\n", "g\u00e4te"])
def test_a_name_that_is_none(source_id: str) -> None:
    for call in (lambda: encode_stream(replace(GATE, source_id=source_id)), lambda: encode_forgotten_stream(source_id)):
        with pytest.raises(RecordInvalid, match="1 to 64 letters") as caught:
            call()
        assert caught.value.field == "source_id" and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("publish", "rtmp://user:secret@relay/live"),
        ("publish", "http://relay/live"),
        ("publish", "gate.mp4"),
        ("roi", "1,2,3"),
        ("track", "../tracker"),
        ("scenario", "a b"),
        ("mask", "a\nb"),
        ("every", 0),
        ("pipelines", ()),
        ("pipelines", ("person", "person")),
        ("lease_s", 0),
    ],
)
def test_what_nobody_could_read_is_not_written(field: str, value: object) -> None:
    with pytest.raises(RecordInvalid) as caught:
        encode_stream(replace(GATE, **{field: value}))
    assert caught.value.field == field and "secret" not in str(caught.value)
