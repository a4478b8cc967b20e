"""Worker: a frame in, one outcome for each of its pipelines out.

The worker owns what pipelines remember (sessions, trackers among them): one set for each (source, epoch, pipeline), fed
in frame_seq order with the frame's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.align import payload_hash
from serving.errors import EngineFailed, ParameterInvalid, ServingError, Unavailable
from serving.frames import DeadReason, DropReason, Frame, FrameResult, Outcome, PictureCodec, Posting
from serving.ports import Tracker
from serving.streams.sessions import NewSession, Sessions, TrackerSession
from serving.tasks.base import Infer as Infer
from serving.tasks.base import Session, ShapesRequests
from serving.types import InferRequest, InferResponse, PixelArray, TaskResult

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One model on streams. `document` gives the fields of a result line (docs/results.schema.json).

    new_session: for a task that remembers (`sessions.session_of`); new_tracker: for boxes. Where both are given, the
    tracker sees what the session returned.
    """

    name: str
    model_version: int
    task: str
    infer: Infer
    document: Callable[[TaskResult], Mapping[str, Any]]
    labels: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    new_tracker: Callable[[], Tracker] | None = None
    certificate_id: str = ""
    new_session: NewSession | None = None

    @property
    def sessions(self) -> tuple[NewSession, ...]:
        """What a timeline of this pipeline begins with, in the order of calling."""
        tracker = self.new_tracker
        tracking: tuple[NewSession, ...] = (lambda: TrackerSession(tracker()),) if tracker is not None else ()
        return (self.new_session, *tracking) if self.new_session is not None else tracking


@dataclass(frozen=True, slots=True)
class Region:
    """What of a source is analysed: `roi` as x1,y1,x2,y2 in source pixels, `mask` bool [h, w], False is blacked out."""

    roi: str = ""
    mask: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    def masked(self, rgb: PixelArray) -> PixelArray:
        """The picture with what is not to be seen blacked out; ParameterInvalid where the sizes differ."""
        if self.mask is None:
            return rgb
        if self.mask.shape != rgb.shape[:2]:
            height, width = self.mask.shape
            raise ParameterInvalid(f"mask: expected {rgb.shape[1]}x{rgb.shape[0]}, got {width}x{height}")
        return np.where(self.mask[:, :, None], rgb, 0).astype(np.uint8)


class Worker:
    """Analyses one frame at a time. `transport`: send pictures through this codec first, as a log would."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        regions: Mapping[str, Region] | None = None,
        transport: PictureCodec | None = None,
    ) -> None:
        self.pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._regions = regions or {}
        self._transport = transport
        self._sessions = Sessions()
        self.attempts = 0

    def analyse(self, frame: Frame) -> list[Posting]:
        """An outcome for every pipeline of the frame, in their order. Raises ParameterInvalid (roi, mask, scenario)."""
        assert frame.picture is not None, "a frame without picture is not sent to inference"
        region = self._regions.get(frame.source_id, Region())
        rgb = region.masked(frame.picture.rgb(self._transport))
        encoded = self._transport.encode(rgb) if self._transport is not None else None
        if self._transport is not None and encoded is not frame.picture.encoded and self._remembers(frame):
            rgb = self._transport.decode(encoded or b"")  # sessions see what the model sees
        postings = []
        for name in frame.pipelines:
            pipeline = self.pipelines[name]
            parameters = {**pipeline.parameters, **({"roi": region.roi} if region.roi else {})}
            picture = rgb if encoded is None else None
            request = InferRequest(encoded, picture, parameters=parameters)
            outcome = self._outcome(frame, pipeline, request, rgb)
            postings.append(Posting(frame.ledger_key(name), frame.pts_ns, outcome))
        return postings

    def _remembers(self, frame: Frame) -> bool:
        return any(self.pipelines[name].new_session is not None for name in frame.pipelines)

    def _outcome(self, frame: Frame, pipeline: Pipeline, request: InferRequest, rgb: PixelArray) -> Outcome:
        sessions = self._sessions.of(frame, pipeline.name, pipeline.sessions)
        error: ServingError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            self.attempts += 1
            answer = _ask(pipeline, request, sessions, frame.pts_ns)
            if isinstance(answer, InferResponse):
                return Outcome.of_result(_result(frame, pipeline, answer, sessions, rgb), attempt)
            if isinstance(answer, ParameterInvalid):
                raise answer  # the operator's mistake, and the same on every frame
            error = answer
        if isinstance(error, Unavailable):
            return Outcome.dropped(DropReason.MODEL_UNAVAILABLE, ATTEMPTS)
        return Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED, ATTEMPTS)


def _result(
    frame: Frame, pipeline: Pipeline, answer: InferResponse, sessions: Sequence[Session], rgb: PixelArray
) -> FrameResult:
    found = answer.result
    for session in sessions:
        found = session.update(found, frame.pts_ns, rgb)
    timings = tuple((name, float(ms)) for name, ms in answer.timings_ms.items())
    return FrameResult(pipeline.name, pipeline.model_version, pipeline.task, found, payload_hash(found), timings)


def _ask(
    pipeline: Pipeline, request: InferRequest, sessions: Sequence[Session], pts_ns: int
) -> InferResponse | ServingError:
    asking = next((session for session in sessions if isinstance(session, ShapesRequests)), None)
    try:
        if asking is not None:
            return asking.ask(request, pipeline.infer, pts_ns)
        answers = pipeline.infer([request])
    except ServingError as error:
        return error
    if len(answers) != 1:
        return EngineFailed(f"{pipeline.name}: one request was sent, {len(answers)} answers came")
    return answers[0]
