"""Worker: a frame in, one outcome for each of its pipelines out.

The worker owns what pipelines remember (sessions, trackers among them): one set for each (source, epoch, pipeline), fed
in frame_seq order with the frame's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from serving.align import payload_hash
from serving.errors import (
    DeadlineExceeded,
    EngineFailed,
    InputError,
    Overloaded,
    ParameterInvalid,
    ServingError,
    Unavailable,
)
from serving.frames import DeadReason, DropReason, Frame, FrameResult, Outcome, PictureCodec, Posting, is_sound
from serving.ports import Tracker
from serving.preprocess.audio import SoundLimits, check_sound, read_sound_header
from serving.spec import SoundSpec
from serving.streams.appearance import Looks
from serving.streams.sessions import NewSession, Sessions, TrackerSession
from serving.targets import Aim
from serving.tasks.base import Infer as Infer
from serving.tasks.base import NumbersFinds, Session, ShapesRequests, TakesTargets
from serving.types import Detections, InferRequest, InferResponse, PixelArray, TaskResult

ATTEMPTS = 3
PIECE = SoundLimits(max_seconds=60)  # of sound in one frame: a record of FLAC could hold hours
NO_PICTURE: PixelArray = np.zeros((1, 1, 3), np.uint8)  # what sessions of sounds see
ABSENT = (Unavailable, Overloaded, DeadlineExceeded)  # the model was not reached: no word about the frame


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One model on streams. `document` gives the fields of a result line (docs/results.schema.json).

    new_session: for a task that remembers (`sessions.session_of`); new_tracker: for boxes. Where both are given, the
    tracker sees what the session returned; session_last: the session sees what the tracker returned. looks: what boxes
    look like, for trackers that compare appearances, where the model does not tell it itself; blind: nobody tells it.
    sound: how a model hears; None: it looks at pictures.
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
    session_last: bool = False
    looks: Looks | None = None
    blind: bool = False
    sound: SoundSpec | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """What of a source is analysed, and how.

    roi: x1,y1,x2,y2 in source pixels. mask: bool [h, w], False is blacked out. parameters: of this source's requests.
    new_tracker: in place of the pipelines' own, for boxes; None: theirs. targets: objects that a user named.
    """

    roi: str = ""
    mask: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    new_tracker: Callable[[], Tracker] | None = None
    targets: tuple[Aim, ...] = ()

    def masked(self, rgb: PixelArray) -> PixelArray:
        """The picture with what is not to be seen blacked out; ParameterInvalid where the sizes differ."""
        if self.mask is None:
            return rgb
        if self.mask.shape != rgb.shape[:2]:
            height, width = self.mask.shape
            raise ParameterInvalid(f"mask: expected {rgb.shape[1]}x{rgb.shape[0]}, got {width}x{height}")
        return np.where(self.mask[:, :, None], rgb, 0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A frame that can be sent. rgb: what sessions see. encoded: what models see, where pictures go encoded.

    sample_rate: of a piece of sound, 0: a picture.
    """

    frame: Frame
    region: Region
    rgb: PixelArray
    encoded: bytes | None
    sample_rate: int = 0

    def suits(self, pipeline: Pipeline) -> bool:
        """A picture for a model that looks, sound at its rate for one that hears."""
        return self.sample_rate == (pipeline.sound.sample_rate if pipeline.sound is not None else 0)

    def request(self, pipeline: Pipeline) -> InferRequest:
        roi = {"roi": self.region.roi} if self.region.roi else {}
        parameters = {**pipeline.parameters, **self.region.parameters, **roi}
        return InferRequest(self.encoded, self.rgb if self.encoded is None else None, parameters=parameters)


class Worker:
    """Analyses frames. `transport`: send pictures through this codec first, as a log would.

    regions: by source; asked again for every frame. first_id: of the tracks and events of what begins with this frame.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        regions: Mapping[str, Region] | None = None,
        transport: PictureCodec | None = None,
        first_id: Callable[[Frame], int] = lambda frame: 0,
    ) -> None:
        self.pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._regions = regions if regions is not None else {}
        self._transport, self._first_id = transport, first_id
        self._sessions = Sessions()
        self.attempts = 0
        self.failures: dict[str, str] = {}  # by pipeline: the last error that was the end of a frame

    def analyse(self, frame: Frame) -> list[Posting]:
        """An outcome for every pipeline of the frame, in their order.

        Raises ParameterInvalid (roi, mask, scenario), ValueError where the picture does not decode.
        """
        (postings,) = self.analyse_many([frame])
        if isinstance(postings, Exception):
            raise postings
        return postings

    def analyse_many(self, frames: Sequence[Frame]) -> list[list[Posting] | ParameterInvalid | ValueError]:
        """The same of several frames, each model asked once about all of them. Frames of a source stand in their order.

        What is wrong with one frame is its own; the others have their outcomes.
        """
        ready = [self._ready(frame) for frame in frames]
        outcomes: list[dict[str, Outcome | ParameterInvalid]] = [{} for _ in frames]
        for name, pipeline in self.pipelines.items():
            mine = {n: r for n, r in enumerate(ready) if isinstance(r, _Ready) and name in r.frame.pipelines}
            for n, outcome in self._outcomes(pipeline, mine):
                outcomes[n][name] = outcome
        return [
            _postings(r.frame, found) if isinstance(r, _Ready) else r for r, found in zip(ready, outcomes, strict=True)
        ]

    def forget(self, source_id: str) -> None:
        """Another worker has the source, or it is analysed otherwise from now on: its sessions begin anew."""
        self._sessions.forget(source_id)

    def watched(self, begins: Callable[[], None]) -> None:
        """Call `begins` before every call of a model: of a batch there are many where sessions ask one by one."""
        self.pipelines = {
            name: replace(pipeline, infer=partial(_watched, pipeline.infer, begins))
            for name, pipeline in self.pipelines.items()
        }

    def _ready(self, frame: Frame) -> _Ready | ParameterInvalid | ValueError:
        assert frame.picture is not None, "a frame without picture is not sent to inference"
        try:
            region = self._regions.get(frame.source_id, Region())
            if is_sound(frame.picture.encoded):
                return _heard(frame, frame.picture.encoded or b"")
            rgb = region.masked(frame.picture.rgb(self._transport))
            encoded = self._transport.encode(rgb) if self._transport is not None else None
            if self._transport is not None and encoded is not frame.picture.encoded and self._remembers(frame):
                rgb = self._transport.decode(encoded or b"")  # sessions see what the model sees
        except (ParameterInvalid, ValueError) as error:
            return error
        return _Ready(frame, region, rgb, encoded)

    def _remembers(self, frame: Frame) -> bool:
        return any(self.pipelines[name].new_session is not None for name in frame.pipelines)

    def _sessions_of(self, ready: _Ready, pipeline: Pipeline) -> tuple[Session, ...]:
        """In the order of calling, each sees what the one before returned."""
        frame, new_tracker = ready.frame, ready.region.new_tracker or pipeline.new_tracker
        new: list[NewSession] = []
        if pipeline.new_session is not None:
            new.append(partial(self._begun, pipeline.new_session, frame))
        if new_tracker is not None:
            new.append(lambda: TrackerSession(new_tracker(), self._first_id(frame), pipeline.looks))
        if pipeline.session_last:
            new.reverse()
        return self._sessions.of(frame, pipeline.name, new)

    def _begun(self, new_session: NewSession, frame: Frame) -> Session:
        session = new_session()
        if isinstance(session, NumbersFinds):
            session.count_from(self._first_id(frame))
        return session

    def _outcomes(
        self, pipeline: Pipeline, mine: Mapping[int, _Ready]
    ) -> Iterator[tuple[int, Outcome | ParameterInvalid]]:
        """One batch; frames of sessions that shape their own requests go one by one, as each depends on the last."""
        together: dict[int, _Ready] = {}
        for n, ready in mine.items():
            if not ready.suits(pipeline):
                yield n, Outcome.dead_letter(DeadReason.SCHEMA)
            elif any(isinstance(session, ShapesRequests) for session in self._sessions_of(ready, pipeline)):
                yield n, self._outcome(pipeline, ready, None)
            else:
                together[n] = ready
        if together:
            self.attempts += len(together)
            answers = _ask_all(pipeline, [ready.request(pipeline) for ready in together.values()])
            for (n, ready), answer in zip(together.items(), answers, strict=True):
                yield n, self._outcome(pipeline, ready, answer)

    def _outcome(
        self, pipeline: Pipeline, ready: _Ready, first: InferResponse | ServingError | None
    ) -> Outcome | ParameterInvalid:
        """first: what the batch answered; the second and third attempt are made alone."""
        sessions = self._sessions_of(ready, pipeline)
        for attempt in range(1, ATTEMPTS + 1):
            answer, first = first, None
            if answer is None:
                self.attempts += 1
                answer = _ask(pipeline, ready, sessions)
            if isinstance(answer, InferResponse):
                self._sessions.saw(ready.frame, pipeline.name)
                try:
                    return Outcome.of_result(_result(ready.frame, pipeline, answer, sessions, ready.rgb), attempt)
                except ServingError as error:  # the sessions have seen it, so it is not asked for again
                    self.failures[pipeline.name] = str(error)
                    return Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED, attempt)
            if isinstance(answer, ParameterInvalid):
                return answer  # the operator's mistake, and the same on every frame
            self.failures[pipeline.name] = str(answer)
            if isinstance(answer, ABSENT):
                return Outcome.dropped(DropReason.MODEL_UNAVAILABLE, attempt)  # asked again at once it is away still
        return Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED, ATTEMPTS)


def _heard(frame: Frame, encoded: bytes) -> _Ready | ValueError:
    """A piece of sound; ValueError where it does not decode, as for a picture."""
    try:
        header = read_sound_header(encoded)
        check_sound(header, PIECE)
    except InputError as error:
        return ValueError(str(error))
    return _Ready(frame, Region(), NO_PICTURE, encoded, header.rate)


def _watched(
    infer: Infer, begins: Callable[[], None], requests: Sequence[InferRequest]
) -> Sequence[InferResponse | ServingError]:
    begins()
    return infer(requests)


def _postings(frame: Frame, found: Mapping[str, Outcome | ParameterInvalid]) -> list[Posting] | ParameterInvalid:
    postings = []
    for name in frame.pipelines:
        outcome = found[name]
        if isinstance(outcome, ParameterInvalid):
            return outcome
        postings.append(Posting(frame.ledger_key(name), frame.pts_ns, outcome))
    return postings


def _result(
    frame: Frame, pipeline: Pipeline, answer: InferResponse, sessions: Sequence[Session], rgb: PixelArray
) -> FrameResult:
    found = answer.result
    for session in sessions:
        found = session.update(found, frame.pts_ns, rgb)
    if isinstance(found, Detections) and found.appearance is not None:
        found = replace(found, appearance=None)  # the trackers have seen it; what waits for its frame holds no vectors
    timings = tuple((name, float(ms)) for name, ms in answer.timings_ms.items())
    try:
        digest = payload_hash(found)
    except ValueError as error:  # NaN or infinite: JSON has no word for it
        raise EngineFailed(f"{pipeline.name}: an answer that is no number: {error}") from error
    return FrameResult(pipeline.name, pipeline.model_version, pipeline.task, found, digest, timings)


def _ask_all(pipeline: Pipeline, requests: Sequence[InferRequest]) -> Sequence[InferResponse | ServingError]:
    try:
        answers = pipeline.infer(requests)
    except ServingError as error:
        return [error] * len(requests)
    if len(answers) != len(requests):
        wrong = EngineFailed(f"{pipeline.name}: {len(requests)} requests were sent, {len(answers)} answers came")
        return [wrong] * len(requests)
    return answers


def _ask(pipeline: Pipeline, ready: _Ready, sessions: Sequence[Session]) -> InferResponse | ServingError:
    request, frame = ready.request(pipeline), ready.frame
    asking = next((session for session in sessions if isinstance(session, ShapesRequests)), None)
    if asking is None:
        return _ask_all(pipeline, [request])[0]
    if isinstance(asking, TakesTargets):
        asking.aim([aim for aim in ready.region.targets if aim.epoch == frame.epoch])
    try:
        return asking.ask(request, pipeline.infer, frame.pts_ns)
    except ServingError as error:
        return error
