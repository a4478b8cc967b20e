"""docs/results.schema.json is current, and says the same as the code that reads results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_data import result_message, results  # type: ignore[import-not-found]

from serving.errors import RecordInvalid
from serving.records import ResultMessage, decode_result, encode_result, result_document
from serving.records.schema import results_schema

PUBLISHED = Path(__file__).resolve().parents[3] / "docs" / "results.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text()))


def test_the_published_schema_is_current_and_a_schema() -> None:
    assert json.loads(PUBLISHED.read_text()) == results_schema(), (
        "python -m serving.records.schema > docs/results.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(results_schema())


@given(results())
def test_what_is_written_suits_the_schema(message: ResultMessage) -> None:
    VALIDATOR.validate(result_document(message))


def test_the_lines_of_a_run_suit_the_schema() -> None:
    """The shape of `serving.streams.lines`, without and with the times of a frame."""
    from io import StringIO

    from serving.align import OutcomeRecord
    from serving.frames import DropReason, Frame, LedgerKey, Outcome, Picture
    from serving.streams.lines import ResultLines
    from serving.streams.worker import Pipeline
    from serving.tasks.detection import TASK

    message = result_message()
    assert message.times is not None
    pipeline = Pipeline("person", 3, "detection", lambda r: [], lambda r: TASK.to_document(r, ("a", "b")))
    file = StringIO()
    lines = ResultLines("gate", {"person": pipeline}, file)
    lines.sized(2, 640, 480)
    lines.frame(Frame("gate", 2, 7, 40_000_000, 3600, message.times.time_base, ("person",), 0, Picture(encoded=b"x")))
    lines.outcomes([OutcomeRecord(message.posting.key, message.posting.outcome, closed=True)])
    dropped = Outcome.dropped(DropReason.NO_PTS)
    lines.outcomes([OutcomeRecord(LedgerKey("gate", 2, 8, "person"), dropped, closed=True)])
    written = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["outcome"] for line in written] == ["result", "dropped"]
    for line in written:
        VALIDATOR.validate(line)
    ours = result_document(message)
    for name in ("raw_pts", "dts", "certificate_id"):
        ours.pop(name, None), written[0].pop(name, None)
    assert written[0] == ours, "one result shape everywhere"


json_values = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=6) | st.just([])


@given(data=st.data())
def test_what_the_code_takes_the_schema_takes(data: st.DataObject) -> None:
    record = encode_result(result_message())
    assert record.value is not None
    document = json.loads(record.value)
    name = data.draw(st.sampled_from(sorted(document)))
    if data.draw(st.booleans()):
        document[name] = data.draw(json_values)
    else:
        del document[name]
    try:
        decode_result(record.key, json.dumps(document).encode(), record.headers)
    except RecordInvalid:
        return
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"source_id": "a/b"}, {"epoch": 0}, {"frame_seq": -1}, {"outcome": "maybe"},
        {"reason": "stale"}, {"outcome": "dropped", "reason": None}, {"outcome": "dropped", "reason": "poison"},
        {"pts_ns": None}, {"detections": [{"xyxy": [1, 2, 3], "confidence": 0.5, "class_id": 0}]},
        {"detections": [{"xyxy": [1, 2, 3, 4], "confidence": 1.5, "class_id": 0}]},
        {"detections": [{"xyxy": [1, 2, 3, 4], "confidence": 0.5, "class_id": 0, "origin": "interpolated"}]},
        {"image": {"width": 0, "height": 5}}, {"model_version": 3}, {"attempt": 0}, {"timings_ms": {"infer": -1}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_wrong_for_both(change: dict[str, Any]) -> None:
    record = encode_result(result_message())
    assert record.value is not None
    document = json.loads(record.value) | change
    with pytest.raises(RecordInvalid):
        decode_result(record.key, json.dumps(document).encode(), record.headers)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(document)
