"""Pipeline: boxes of one model with what other models found in them (serving/pipelines), and who they are over a track.

A row is a detection with one field more for each step that the pipeline's `answer.fields` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.spec_steps import in_order, step_named
from serving.tasks.base import Agreement, Gate, Parameter, Session
from serving.tasks.detection import DetectionTask
from serving.tasks.homography import KIND as PITCH
from serving.tasks.homography import NEAR
from serving.tasks.pitch_places import PlacesSession, draw_places, moved_whole
from serving.types import (
    APPEARANCE,
    Array,
    Detections,
    ImageTransform,
    NamedDetections,
    PixelArray,
    TaskResult,
    TensorSpec,
)

UNKNOWN = "unknown"
# Consensus over a track: so many frames must say the same subject, and so large a share of all that said anything.
LEAST_VOTES, LEAST_SHARE = 3, 0.6


@dataclass(frozen=True, slots=True)
class PipelineResult(NamedDetections):
    """Boxes and what was found in them.

    joined: fields by step, one mapping a box. whole: fields by step of the whole picture. failures: `{step, code,
    boxes}`. has_rows False: the pipeline answers without boxes.
    """

    joined: tuple[Mapping[str, Any], ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Mapping[str, Any], ...] = ()
    has_rows: bool = True

    def __post_init__(self) -> None:
        NamedDetections.__post_init__(self)
        if len(self.joined) != len(self):
            raise ValueError(f"PipelineResult.joined: expected {len(self)}, one a box, got {len(self.joined)}")


class PipelineTask(DetectionTask):
    """Detection with fields more. The network's outputs are never seen here: serving/pipelines makes the result."""

    name = "pipeline"
    follows_tracks = True  # a session of this task sees track ids
    parameters: Mapping[str, Parameter] = {
        "score_threshold": Parameter("float", 0.0, 1.0, None, "boxes below this confidence are left out"),
        "max_detections": Parameter("int", 1, 5000, None, "how many boxes, best first"),
        "embeddings": Parameter("bool", default=False, help="tell the embeddings too"),
        "near": NEAR,
    }

    def check(self, spec: ModelSpec) -> None:
        """Steps that refer to each other without a cycle, and an answer of such steps."""
        names = {step.name: step for step in in_order(spec.name, spec.steps)}
        if not spec.answer.fields and spec.answer.detections is None:
            raise SpecInvalid(f"{spec.name}: answer: expected detections, fields or both")
        for name in (*spec.answer.fields, *filter(None, [spec.answer.detections, spec.answer.appearance])):
            step_named(spec.name, names, name, "answer")
        if spec.options:
            raise SpecInvalid(f"{spec.name}: options: a pipeline's options stand in its steps")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """Detection's tensors; with `answer.appearance` also appearance FP32 [n, d], d = 0 where no box has any."""
        looks = (TensorSpec(APPEARANCE, "FP32", (-1, -1)),) if spec.answer.appearance is not None else ()
        return (*DetectionTask.outputs(self, spec), *looks)

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """The tensors of `outputs`: the only way of an appearance to another process, no document tells it."""
        assert isinstance(result, Detections)
        tensors = DetectionTask.to_tensors(self, result, spec)
        if spec.answer.appearance is None:
            return tensors
        looks = result.appearance if result.appearance is not None else np.zeros((len(result), 0), np.float32)
        return {**tensors, APPEARANCE: looks}

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Detections:
        """A pipeline has no network of its own."""
        raise SpecInvalid(f"{spec.name}: a pipeline has no outputs to read")

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`detections`, each with the steps' fields; `steps`: of the whole picture; `failures` where there are some."""
        assert isinstance(result, Detections)
        if not isinstance(result, PipelineResult):
            return DetectionTask.to_document(self, result, labels)
        document: dict[str, Any] = {}
        if result.has_rows:
            document = DetectionTask.to_document(self, result, labels)
            for row, name, more in zip(document["detections"], result.names, result.joined, strict=True):
                row |= {"label": name or row["label"], **more}
        if result.whole or not result.has_rows:
            document["steps"] = dict(result.whole)
        return {**document, "failures": list(result.failures)} if result.failures else document

    def from_document(self, document: Mapping[str, Any]) -> PipelineResult:
        """The document back."""
        rows = document.get("detections")
        found = DetectionTask.from_document(self, {"detections": rows or []})
        known = {"xyxy", "confidence", "class_id", "label", "track_id", "origin"}
        joined = tuple({k: v for k, v in row.items() if k not in known} for row in rows or ())
        names = tuple(_name_of(more) for more in joined)
        ids = np.array([row.get("track_id", -1) for row in rows or ()], np.int64)
        return PipelineResult(
            found.xyxy, found.confidence, found.class_id, ids if bool((ids >= 0).any()) else None, joined=joined,
            names=names, whole=document.get("steps", {}), failures=tuple(document.get("failures", ())),
            has_rows=rows is not None,
        )  # fmt: skip

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Detection's agreement. Boxes are not counted: there may be none, and their own model's certificate does."""
        told = DetectionTask.agree(self, reference, candidate, gate, spec)
        return replace(told, figures={name: value for name, value in told.figures.items() if name != "boxes"})

    def move(self, result: TaskResult, scale: float, offset: tuple[float, float]) -> TaskResult:
        """Boxes and landmarks in coordinates `place * scale + offset`."""
        assert isinstance(result, Detections)
        shift = np.array([*offset, *offset], np.float32)
        xyxy = (result.xyxy * np.float32(scale) + shift).astype(np.float32)
        if not isinstance(result, PipelineResult):
            return replace(result, xyxy=xyxy)
        joined = tuple(_moved(more, scale, offset) for more in result.joined)
        return replace(result, xyxy=xyxy, joined=joined, whole=moved_whole(result.whole, scale, offset))

    def draw(self, rgb: PixelArray, result: TaskResult, labels: Sequence[str], threshold: float) -> None:
        """A small map where the pipeline has one; boxes are drawn as everywhere."""
        if isinstance(result, PipelineResult):
            draw_places(rgb, result.whole, result.joined, result)

    def new_session(self, spec: ModelSpec, parameters: Mapping[str, Any]) -> Session:
        """What the faces of a track were called so far; the map of a pitch."""
        names = TrackNames([step.name for step in spec.steps if step.do == "match"])
        pitches = [step.name for step in spec.steps if step.do == PITCH]
        return PlacesSession(pitches, names) if pitches else names


class Votes(NamedTuple):
    """What was said about a track: frames by subject ('' unknown), sum of scores by subject, labels."""

    frames: dict[str, int]
    scores: dict[str, float]
    labels: dict[str, str]


class TrackNames:
    """Consensus over a track: one name for all its frames, once enough of them agree.

    A frame whose quality is too low says nothing. A row of a track gets `track: {status, subject?, label, votes, of}`;
    its name is that of the track. Nothing is said again of frames that went before.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self._steps = tuple(steps)
        self._tracks: dict[int, Votes] = {}
        self._seen_ns: dict[int, int] = {}

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """See `serving.tasks.base.Session.update`."""
        if not isinstance(result, PipelineResult) or result.tracker_id is None or not self._steps:
            return result
        joined, names = list(result.joined), list(result.names)
        for place, track in enumerate(result.tracker_id.tolist()):
            identity = next((joined[place][s] for s in self._steps if s in joined[place]), None)
            if track < 0:
                continue
            votes = self._tracks.setdefault(track, Votes({}, {}, {}))
            self._seen_ns[track] = pts_ns
            if identity is not None:
                _count(votes, identity)
            told = consensus(votes)
            if votes.frames:
                joined[place] = {**joined[place], "track": told}
                names[place] = told["label"]
        self._forget(pts_ns)
        return replace(result, joined=tuple(joined), names=tuple(names))

    def _forget(self, now_ns: int, after_ns: int = 60_000_000_000) -> None:
        """A track that was not seen for a minute does not come back: its tracker has forgotten it long ago."""
        if len(self._seen_ns) > 64:
            for track in [t for t, seen in self._seen_ns.items() if now_ns - seen > after_ns]:
                del self._tracks[track], self._seen_ns[track]


def _count(votes: Votes, identity: Mapping[str, Any]) -> None:
    if str(identity.get("reason", "")).startswith(("low_quality", "empty_gallery")):
        return
    subject = str(identity.get("subject", ""))
    votes.frames[subject] = votes.frames.get(subject, 0) + 1
    votes.scores[subject] = votes.scores.get(subject, 0.0) + float(identity["score"])
    votes.labels[subject] = str(identity["label"])


def consensus(votes: Votes) -> dict[str, Any]:
    """`{status, subject?, label, votes, of}`: the subject that most frames name, where they are enough."""
    of = sum(votes.frames.values())
    named = [subject for subject in votes.frames if subject]
    best = max(named, key=lambda s: (votes.frames[s], votes.scores[s]), default="")
    count = votes.frames.get(best, 0) if best else 0
    if best and count >= LEAST_VOTES and count >= LEAST_SHARE * of:
        return {"status": "known", "subject": best, "label": votes.labels[best], "votes": count, "of": of}
    return {"status": UNKNOWN, "label": UNKNOWN, "votes": count, "of": of}


def _name_of(joined: Mapping[str, Any]) -> str:
    """The name in a row: the track's where there is one, else that of the step which found an identity."""
    found = [value for value in joined.values() if isinstance(value, Mapping) and value.get("status")]
    first = joined.get("track") or (found[0] if found else None)
    return str(first.get("label", "")) if isinstance(first, Mapping) else ""


def _moved(joined: Mapping[str, Any], scale: float, offset: tuple[float, float]) -> Mapping[str, Any]:
    if "landmarks" not in joined:
        return joined
    points = [[round(x * scale + offset[0], 2), round(y * scale + offset[1], 2)] for x, y in joined["landmarks"]]
    return {**joined, "landmarks": points}


TASK = PipelineTask()
