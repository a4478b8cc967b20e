"""Messages of every topic, as Hypothesis strategies and as plain examples."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from serving.align import payload_hash
from serving.frames import (
    CaptureQuality,
    DeadReason,
    DroppedRun,
    DropReason,
    Frame,
    FrameResult,
    LedgerKey,
    Outcome,
    Picture,
    Posting,
    PtsSource,
    SourceKind,
    StreamInfo,
    TimelineRecord,
)
from serving.records import (
    FrameMessage,
    OutcomeMessage,
    ResultMessage,
    StreamMessage,
    StreamState,
    TimelineMessage,
)
from serving.records.results import FrameTimes, ModelFacts
from serving.tasks.classification import TASK as CLASSIFICATION
from serving.tasks.detection import TASK as DETECTION
from serving.types import Classification, Detections

JPEG = b"\xff\xd8\xff\xe0" + bytes(40) + b"\xff\xd9"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}", fullmatch=True)
int64 = st.integers(-(1 << 63) + 1, (1 << 63) - 1)
positive = st.integers(0, (1 << 63) - 1)
epochs = st.integers(1, (1 << 31) - 1)
fractions = st.builds(Fraction, st.integers(1, 10**6), st.integers(1, 10**9))
pipelines = st.lists(names, min_size=1, max_size=3, unique=True).map(tuple)
traces = st.sampled_from(["", TRACE])
sides = st.integers(1, 8192)


@st.composite
def frames(draw: st.DrawFn) -> tuple[FrameMessage, bytes | None]:
    payload = draw(st.sampled_from([None, JPEG]))
    frame = Frame(
        draw(names), draw(epochs), draw(positive), draw(positive), draw(int64), draw(fractions), draw(pipelines),
        123, Picture(encoded=payload) if payload else None, draw(st.booleans()), draw(st.none() | int64),
        draw(st.sampled_from(PtsSource)), draw(st.none() | int64), draw(st.sampled_from(CaptureQuality)),
        draw(st.none() | int64),
    )  # fmt: skip
    size = draw(st.sampled_from([(0, 0), (640, 480)]))
    scale = draw(st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(3, 7)])) if any(size) else Fraction(1)
    return FrameMessage(frame, *size, scale, draw(traces)), payload


@st.composite
def runs(draw: st.DrawFn) -> tuple[FrameMessage, bytes | None]:
    first = draw(st.integers(0, 1 << 40))
    last = first + draw(st.integers(0, 99_999))
    run = DroppedRun(draw(names), draw(epochs), first, last, draw(st.sampled_from(DropReason)), draw(pipelines))
    return FrameMessage(run, traceparent=draw(traces)), None


def detections(tracked: bool = True, n: int = 2) -> Detections:
    boxes = np.arange(4 * n, dtype=np.float32).reshape(n, 4) + np.float32(0.125)
    ids = np.arange(n) - 1 if tracked else None
    return Detections(boxes, np.linspace(0.9, 0.1, n, dtype=np.float32).round(2), np.arange(n), ids)


def result_message(source_id: str = "gate", **more: Any) -> ResultMessage:
    found = more.pop("found", detections())
    task, answer = ("detection", DETECTION) if isinstance(found, Detections) else ("classification", CLASSIFICATION)
    result = FrameResult("person", 3, task, found, payload_hash(found), (("infer", 1.25), ("decode", 0.5)))
    posting = Posting(LedgerKey(source_id, 2, 7, "person"), 40_000_000, Outcome.of_result(result, 1))
    facts = ModelFacts("person", 3, task, "0123456789ab")
    values: dict[str, Any] = {"times": FrameTimes(3600, Fraction(1, 90000), 12, 11), "image": (640, 480)}
    return ResultMessage(posting, facts, answer=answer.to_document(found, ("a", "b")), **(values | more))


@st.composite
def results(draw: st.DrawFn) -> ResultMessage:
    key = LedgerKey(draw(names), draw(epochs), draw(positive), draw(names))
    facts = ModelFacts(draw(names), draw(st.integers(1, 99)), "detection", draw(st.sampled_from(["", "0123456789ab"])))
    attempt = draw(st.integers(1, 5))
    found = draw(st.sampled_from([detections(), detections(False), Detections.empty(), _classes()]))
    kind = draw(st.sampled_from(["result", "dropped", "dead_letter"]))
    timed = kind == "result" or draw(st.booleans())
    times = FrameTimes(
        draw(int64), draw(fractions), draw(st.none() | int64), draw(st.none() | int64), draw(st.sampled_from(PtsSource))
    )
    posting = Posting(key, draw(positive) if timed else None, _outcome(draw, kind, found, facts, attempt))
    answer = {} if kind != "result" else _document(found)
    return ResultMessage(posting, facts, times if timed else None, answer, None, draw(traces))


def _outcome(draw: st.DrawFn, kind: str, found: Any, facts: ModelFacts, attempt: int) -> Outcome:
    if kind == "dropped":
        return Outcome.dropped(draw(st.sampled_from(DropReason)), attempt)
    if kind == "dead_letter":
        return Outcome.dead_letter(draw(st.sampled_from(DeadReason)), attempt)
    result = FrameResult(facts.model, facts.model_version, facts.task, found, payload_hash(found), (("infer", 1.5),))
    return Outcome.of_result(result, attempt)


def _classes() -> Classification:
    return Classification(np.array([3, 1]), np.array([0.75, 0.25], np.float32))


def _document(found: Any) -> dict[str, Any]:
    return DETECTION.to_document(found, ()) if isinstance(found, Detections) else CLASSIFICATION.to_document(found, ())


@st.composite
def timelines(draw: st.DrawFn) -> TimelineMessage:
    base, modulus = draw(fractions), draw(st.none() | st.integers(2, 1 << 40))
    claim = TimelineRecord(
        draw(names), draw(epochs), draw(names), base, draw(int64), draw(st.none() | int64), modulus, draw(pipelines)
    )
    info = StreamInfo(
        claim.source_id, draw(st.sampled_from(SourceKind)), base, draw(sides), draw(sides), draw(names), modulus,
        draw(st.none() | fractions), draw(st.integers(0, 16)), draw(st.booleans()), draw(st.sampled_from(PtsSource)),
    )  # fmt: skip
    return TimelineMessage(claim, info, draw(st.none() | positive), draw(st.booleans()))


outcomes = st.builds(
    OutcomeMessage,
    st.builds(LedgerKey, names, epochs, positive, names),
    st.builds(Outcome.dropped, st.sampled_from(DropReason), st.integers(1, 5))
    | st.builds(Outcome.dead_letter, st.sampled_from(DeadReason), st.integers(1, 5)),
    st.booleans(),
    st.none() | positive,
)
streams = st.builds(
    StreamMessage,
    names,
    st.sampled_from(["rtsp://admin:{CAMERA_1}@10.0.0.1/live", "file:clip.mp4", "udp://127.0.0.1:5000"]),
    pipelines,
    st.integers(1, 100),
    st.integers(0, 60_000),
    st.booleans(),
    st.sampled_from(["", "1,2,30,40"]),
    st.integers(1, 240),
    st.none() | st.integers(1, 86_400),
    st.just("") | names,
    st.sampled_from(["", "masks/gate.png"]),
    st.just("") | names,
    st.booleans(),
    st.sampled_from(["", "rtmp://user:{RELAY}@10.0.0.9/live/gate", "rtsp://10.0.0.9/gate"]),
    st.booleans(),
    st.sampled_from(StreamState),
    st.booleans(),
)
