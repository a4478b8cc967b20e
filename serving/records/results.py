"""Topic `results`: every outcome candidate from any role, as the one result document of docs/results.schema.json.

key: source_id, partition: that of the frame. value: the document. Headers carry what is not part of the answer: the
payload hash that breaks ties in the merge, and whether boxes were tracked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from serving.frames import CaptureQuality, DeadReason, DropReason, FrameResult, LedgerKey, Outcome, Posting, PtsSource
from serving.ports_log import Headers
from serving.records import cloud_events
from serving.records.fields import (
    INT64,
    MAX_EPOCH,
    Encoded,
    Fields,
    check_schema,
    fraction_text,
    json_bytes,
    name_of,
    text_of,
    wrong,
)
from serving.types import UNKNOWN, Classification, Detections, Embedding, NamedDetections, TaskResult

TOPIC = "results"
SCHEMA = 1
MAX_EMBEDDING = 8192
NAMED_TASK = "pipeline"  # its labels may be names of subjects, which no list of classes holds
OUTCOMES = ("result", "dropped", "dead_letter")
REQUIRED = (
    "schema", "source_id", "epoch", "frame_seq", "pipeline", "pts", "time_base", "pts_ns", "outcome", "reason",
    "attempt", "model", "model_version", "task", "certificate_id",
)  # fmt: skip
_HASH = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class OtherResult(TaskResult):
    """The answer of a task that has no type of its own here (raw, audio ...): its fields as they came."""

    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToldDetections(NamedDetections):
    """Boxes of a pipeline. fields: all that its answer says (what else is in a row, what was found in the whole
    picture), for its task to read (`Task.from_document`)."""

    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """The times of the frame that a result belongs to, as its record said; all of them, or none (FrameTimes | None)."""

    pts: int
    time_base: Fraction
    raw_pts: int | None = None
    dts: int | None = None
    pts_source: PtsSource = PtsSource.CONTAINER
    capture_ns: int | None = None
    capture_quality: CaptureQuality = CaptureQuality.NONE


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which model answered, or would have."""

    model: str
    model_version: int
    task: str
    certificate_id: str = ""


@dataclass(frozen=True, slots=True)
class ResultMessage:
    """A record of `results`. answer: the task's fields of the document. image: size of the source's picture."""

    posting: Posting
    model: ModelFacts
    times: FrameTimes | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    image: tuple[int, int] | None = None
    traceparent: str = ""

    def __post_init__(self) -> None:
        if (self.times is None) != (self.posting.pts_ns is None):
            raise ValueError(f"ResultMessage: expected the frame's times exactly where it has a pts_ns, got {self}")


def result_document(message: ResultMessage) -> dict[str, Any]:
    """The document: the same on the topic, in `run --results` and over REST."""
    key, outcome, times, model = message.posting.key, message.posting.outcome, message.times, message.model
    document: dict[str, Any] = {"schema": SCHEMA, "source_id": key.source_id, "epoch": key.epoch}
    document |= {"frame_seq": key.frame_seq, "pipeline": key.pipeline}
    document |= {"pts": times and times.pts, "time_base": times and fraction_text(times.time_base)}
    document |= {"pts_ns": message.posting.pts_ns}
    if times is not None:
        optional = {"raw_pts": times.raw_pts, "dts": times.dts, "pts_source": times.pts_source.value}
        if times.capture_ns is not None:
            optional |= {"capture_ns": times.capture_ns, "capture_quality": times.capture_quality.value}
        document |= {name: value for name, value in optional.items() if value is not None}
    document |= {"outcome": outcome.status.name.lower(), "reason": outcome.reason or None, "attempt": outcome.attempt}
    document |= {"model": model.model, "model_version": str(model.model_version), "task": model.task}
    document |= {"certificate_id": model.certificate_id}
    if outcome.result is not None:
        if message.image is not None:
            document["image"] = {"width": message.image[0], "height": message.image[1]}
        document |= message.answer
        document["timings_ms"] = {name: round(ms, 3) for name, ms in outcome.result.timings_ms}
    return document


def encode_result(message: ResultMessage) -> Encoded:
    """Raises RecordInvalid for names that are none."""
    key, outcome = message.posting.key, message.posting.outcome
    source_id = name_of(key.source_id, TOPIC, "source_id")
    name_of(key.pipeline, TOPIC, "pipeline")
    event_id = f"{key.epoch}/{key.frame_seq}/{key.pipeline}/{outcome.status.name.lower()}/{outcome.attempt}"
    headers = cloud_events.attributes("result", source_id, event_id, "application/json", message.traceparent)
    if outcome.result is not None:
        headers = (*headers, ("payload_hash", outcome.result.payload_hash.encode()))
        boxes = outcome.result.detections
        if boxes is not None and boxes.tracker_id is not None:
            headers = (*headers, ("tracked", b"true"))
    return Encoded(source_id.encode(), json_bytes(result_document(message)), headers)


def decode_result(key: bytes | None, value: bytes | None, headers: Headers = ()) -> ResultMessage:
    """Raises RecordInvalid."""
    source_id = name_of(text_of(key, TOPIC, "key"), TOPIC, "key")
    named = Fields.of_headers(TOPIC, headers, ("payload_hash", "tracked", *cloud_events.HEADERS))
    cloud_events.check(named, "result")
    fields = Fields.of_json(TOPIC, value)
    check_schema(fields, SCHEMA)
    fields.require(REQUIRED)
    if fields.name("source_id") != source_id:
        fields.wrong("source_id", f"the record's key {source_id!r}")
    times, pts_ns = _times(fields)
    task = ModelFacts(
        fields.name("model"),
        fields.version("model_version"),
        fields.name("task"),
        fields.text("certificate_id", limit=64),
    )
    outcome, answer = _outcome(fields, task, named)
    ledger_key = LedgerKey(
        source_id, fields.integer("epoch", 1, MAX_EPOCH), fields.integer("frame_seq", 0), fields.name("pipeline")
    )
    image = None
    if fields.has("image"):
        size = fields.object("image")
        image = (size.integer("width", 1, 1 << 16), size.integer("height", 1, 1 << 16))
    return ResultMessage(Posting(ledger_key, pts_ns, outcome), task, times, answer, image, named.traceparent())


def _times(fields: Fields) -> tuple[FrameTimes | None, int | None]:
    present = [name for name in ("pts", "time_base", "pts_ns") if fields.has(name)]
    if not present:
        return None, None
    times = FrameTimes(
        fields.integer("pts", -INT64 + 1),
        fields.fraction("time_base"),
        fields.integer("raw_pts", -INT64 + 1, default=None),
        fields.integer("dts", default=None),
        fields.choice("pts_source", PtsSource, PtsSource.CONTAINER),
        fields.integer("capture_ns", default=None),
        fields.choice("capture_quality", CaptureQuality, CaptureQuality.NONE),
    )
    return times, fields.integer("pts_ns", 0)


def _outcome(fields: Fields, model: ModelFacts, named: Fields) -> tuple[Outcome, Mapping[str, Any]]:
    word, attempt = fields.text("outcome"), fields.integer("attempt", 1, 1000)
    if word == "dropped":
        return Outcome.dropped(fields.choice("reason", DropReason), attempt), {}
    if word == "dead_letter":
        return Outcome.dead_letter(fields.choice("reason", DeadReason), attempt), {}
    if word != "result":
        fields.wrong("outcome", f"one of {OUTCOMES}")
    if fields.has("reason"):
        fields.wrong("reason", "null for a result")
    result, answer = _answer(fields, model, named.flag("tracked", False))
    digest = named.text("payload_hash")
    if not _HASH.match(digest):
        named.wrong("payload_hash", "64 hexadecimal digits")
    timings = fields.object("timings_ms")
    spans = tuple((name, timings.number(name, 0.0)) for name in timings.raw)
    found = FrameResult(model.model, model.model_version, model.task, result, digest, spans)
    return Outcome.of_result(found, attempt), answer


_ABOUT = frozenset(
    {
        "schema", "source_id", "epoch", "frame_seq", "pipeline", "pts", "time_base", "pts_ns", "raw_pts", "dts",
        "pts_source", "capture_ns", "capture_quality", "outcome", "reason", "attempt", "model", "model_version",
        "task", "certificate_id", "image", "timings_ms",
    }
)  # fmt: skip


def _answer(fields: Fields, model: ModelFacts, tracked: bool) -> tuple[TaskResult, Mapping[str, Any]]:
    answer = {name: value for name, value in fields.raw.items() if name not in _ABOUT}
    kinds = [name for name in ("detections", "classes", "embedding", "outputs") if name in answer]
    if len(kinds) > 1:
        fields.wrong(kinds[1], f"nothing beside {kinds[0]}")
    if "detections" in answer:
        rows = fields.rows("detections")
        found = _detections(rows, tracked)
        if model.task != NAMED_TASK:
            return found, answer
        names = tuple(row.text("label", "") for row in rows)
        columns = found.xyxy, found.confidence, found.class_id, found.tracker_id
        return ToldDetections(*columns, names=names, fields=answer), answer
    if "classes" in answer:
        rows = fields.rows("classes")
        ids = np.array([row.integer("class_id", UNKNOWN, (1 << 31) - 1) for row in rows], np.int64)
        return Classification(ids, np.array([row.number("score", 0, 1) for row in rows], np.float32)), answer
    if "embedding" in answer:
        return Embedding(np.array(fields.floats("embedding", 1, MAX_EMBEDDING), np.float32)), answer
    if not answer:
        wrong(TOPIC, "value", "detections, classes, embedding or another task's fields", "none of them")
    return OtherResult(answer), answer


def _detections(rows: list[Fields], tracked: bool) -> Detections:
    """Measured boxes only: filled ones live in the side channel of the mixed output. No track_id: no track."""
    for row in rows:
        if row.text("origin", "measured") != "measured":
            row.wrong("origin", "measured")
        row.text("label", "")
    ids = np.array([row.integer("track_id", 0, default=-1) for row in rows], np.int64)
    return Detections(
        np.array([row.floats("xyxy", 4, 4) for row in rows], np.float32).reshape(-1, 4),
        np.array([row.number("confidence", 0, 1) for row in rows], np.float32),
        np.array([row.integer("class_id", 0, (1 << 31) - 1) for row in rows], np.int64),
        ids if tracked or bool((ids >= 0).any()) else None,
    )
