"""Worker: a frame in, one outcome for each of its pipelines out.

The worker owns the trackers: one for each (source, epoch, pipeline), fed in frame_seq order with the frame's own time.
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
from serving.types import Detections, InferRequest, InferResponse, PixelArray, TaskResult

ATTEMPTS = 3
Infer = Callable[[Sequence[InferRequest]], Sequence[InferResponse | ServingError]]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One model on streams. `document` gives the fields of a result line (docs/results.schema.json)."""

    name: str
    model_version: int
    task: str
    infer: Infer
    document: Callable[[TaskResult], Mapping[str, Any]]
    labels: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    new_tracker: Callable[[], Tracker] | None = None
    certificate_id: str = ""


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
        self._trackers: dict[tuple[str, str], tuple[int, Tracker]] = {}
        self.attempts = 0

    def analyse(self, frame: Frame) -> list[Posting]:
        """An outcome for every pipeline of the frame, in their order. Raises ParameterInvalid (roi, mask, scenario)."""
        assert frame.picture is not None, "a frame without picture is not sent to inference"
        region = self._regions.get(frame.source_id, Region())
        rgb = region.masked(frame.picture.rgb(self._transport))
        if self._transport is None:
            picture = {"frame": rgb}
        else:
            picture = {"encoded": self._transport.encode(rgb)}  # type: ignore[dict-item]
        postings = []
        for name in frame.pipelines:
            parameters = {**self.pipelines[name].parameters, **({"roi": region.roi} if region.roi else {})}
            request = InferRequest(**picture, parameters=parameters)  # type: ignore[arg-type]
            outcome = self._outcome(frame, self.pipelines[name], request)
            postings.append(Posting(frame.ledger_key(name), frame.pts_ns, outcome))
        return postings

    def _outcome(self, frame: Frame, pipeline: Pipeline, request: InferRequest) -> Outcome:
        error: ServingError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            self.attempts += 1
            answer = _ask(pipeline, request)
            if isinstance(answer, InferResponse):
                return Outcome.of_result(self._result(frame, pipeline, answer), attempt)
            if isinstance(answer, ParameterInvalid):
                raise answer  # the operator's mistake, and the same on every frame
            error = answer
        if isinstance(error, Unavailable):
            return Outcome.dropped(DropReason.MODEL_UNAVAILABLE, ATTEMPTS)
        return Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED, ATTEMPTS)

    def _result(self, frame: Frame, pipeline: Pipeline, answer: InferResponse) -> FrameResult:
        found = answer.result
        if isinstance(found, Detections) and pipeline.new_tracker is not None:
            found = self._tracker(frame, pipeline).update(found, frame.pts_ns)
        timings = tuple((name, float(ms)) for name, ms in answer.timings_ms.items())
        return FrameResult(pipeline.name, pipeline.model_version, pipeline.task, found, payload_hash(found), timings)

    def _tracker(self, frame: Frame, pipeline: Pipeline) -> Tracker:
        key = (frame.source_id, pipeline.name)
        epoch, tracker = self._trackers.get(key, (0, None))
        if tracker is None or epoch != frame.epoch:
            assert pipeline.new_tracker is not None
            tracker = pipeline.new_tracker()
            self._trackers[key] = frame.epoch, tracker
        return tracker


def _ask(pipeline: Pipeline, request: InferRequest) -> InferResponse | ServingError:
    try:
        answers = pipeline.infer([request])
    except ServingError as error:
        return error
    if len(answers) != 1:
        return EngineFailed(f"{pipeline.name}: one request was sent, {len(answers)} answers came")
    return answers[0]
