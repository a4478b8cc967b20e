"""Sessions of a worker: one for each (source, epoch, pipeline), in order, with the frame's time and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from serving.errors import EngineFailed, ServingError
from serving.frames import AlignedFrame, Frame, FrameResult, Outcome, Overlay, Picture, Status
from serving.preprocess.jpeg import JpegCodec
from serving.records.results import OtherResult
from serving.spec import ModelSpec
from serving.streams import drawing
from serving.streams.drawing import Drawing
from serving.streams.sessions import session_of
from serving.streams.worker import Infer, Pipeline, Worker
from serving.tasks import task_named
from serving.tasks.base import Draws, Moves, ShapesRequests, Stateful, moved
from serving.types import Detections, InferRequest, InferResponse, PixelArray, RawTensors, TaskResult


def frame(seq: int, source: str = "cam", epoch: int = 1, level: int = 0, names: tuple[str, ...] = ("p",)) -> Frame:
    picture = Picture(array=np.full((32, 48, 3), level, np.uint8))
    return Frame(source, epoch, seq, seq * 40_000_000, seq, Fraction(1, 25), names, 0, picture)


@dataclass
class Remembers:
    """Counts its calls into the result."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        self.seen.append((pts_ns, int(picture[0, 0, 0])))
        return RawTensors({"calls": np.array([len(self.seen)])})


class Asks(Remembers):
    """Asks with its own parameter, and fails the first time."""

    asked = 0

    def ask(self, request: InferRequest, infer: Infer, pts_ns: int) -> InferResponse | ServingError:
        self.asked += 1
        if self.asked == 1:
            return EngineFailed("once")
        return infer([InferRequest(frame=request.frame, parameters={"calls": len(self.seen)})])[0]


def answer(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
    return [InferResponse(RawTensors({"calls": np.array([-1])}), None, {}) for _ in requests]


def calls_of(worker: Worker, given: Frame) -> int:
    (posting,) = worker.analyse(given)
    result = posting.outcome.result
    assert result is not None and isinstance(result.result, RawTensors)
    return int(result.result.tensors["calls"][0])


def pipeline(
    made: list[Remembers], name: str = "p", infer: Infer = answer, kind: type[Remembers] = Remembers
) -> Pipeline:
    def begin() -> Remembers:
        made.append(kind())
        return made[-1]

    return Pipeline(name, 1, "raw", infer, lambda result: {}, new_session=begin)


def test_each_source_and_epoch_has_a_session_of_its_own() -> None:
    made: list[Remembers] = []
    worker = Worker([pipeline(made)])
    order = [frame(0), frame(1), frame(0, "yard"), frame(2), frame(0, epoch=2), frame(1, "yard"), frame(1, epoch=2)]
    assert [calls_of(worker, given) for given in order] == [1, 2, 1, 3, 1, 2, 2]
    assert len(made) == 3 and [pts for pts, _ in made[0].seen] == [0, 40_000_000, 80_000_000]


def test_i3_a_frame_that_comes_once_more_leaves_the_sessions_as_they_are() -> None:
    made: list[Remembers] = []
    worker = Worker([pipeline(made)])
    order = [frame(0), frame(1), frame(0), frame(1), frame(0, epoch=2), frame(1), frame(1, epoch=2), frame(2)]
    assert [calls_of(worker, given) for given in order] == [1, 2, 1, 1, 1, 1, 2, 1]
    kept = [[pts for pts, _ in session.seen] for session in made if len(session.seen) == 2]
    assert kept == [[0, 40_000_000]] * 2, "one for each epoch, in order"


def test_pipelines_do_not_share_a_session() -> None:
    made: list[Remembers] = []
    worker = Worker([pipeline(made, "a"), pipeline(made, "b")])
    for seq in range(2):
        worker.analyse(frame(seq, names=("a", "b")))
    assert [len(session.seen) for session in made] == [2, 2]


def test_a_session_sees_the_picture_that_the_model_saw() -> None:
    """Over the log that is the picture after JPEG."""
    made: list[Remembers] = []
    plain, packed = Worker([pipeline(made)]), Worker([pipeline(made)], transport=JpegCodec(30))
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    given = Frame("cam", 1, 0, 0, 0, Fraction(1, 25), ("p",), 0, Picture(array=noise))
    for worker in (plain, packed):
        worker.analyse(given)
    codec = JpegCodec(30)
    assert made[0].seen == [(0, int(noise[0, 0, 0]))]
    assert made[1].seen == [(0, int(codec.decode(codec.encode(noise))[0, 0, 0]))] != made[0].seen


def test_a_session_may_ask_its_own_way_and_is_updated_once_a_frame() -> None:
    made: list[Remembers] = []
    asked: list[Mapping[str, Any]] = []

    def infer(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        asked.extend(request.parameters for request in requests)
        return answer(requests)

    worker = Worker([pipeline(made, infer=infer, kind=Asks)])
    assert [calls_of(worker, frame(seq)) for seq in range(3)] == [1, 2, 3]
    assert [parameters["calls"] for parameters in asked] == [0, 1, 2]  # the failed call left no trace


def test_a_tracker_follows_the_session() -> None:
    class Boxes(Remembers):
        def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
            box = np.array([[1, 2, 3, 4]], np.float32)
            return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))

    class Numbers:
        def update(self, detections: Detections, pts_ns: int) -> Detections:
            return Detections(detections.xyxy, detections.confidence, detections.class_id, np.array([7]))

    worker = Worker([Pipeline("p", 1, "raw", answer, lambda r: {}, new_tracker=Numbers, new_session=Boxes)])
    (posting,) = worker.analyse(frame(0))
    assert posting.outcome.status is Status.RESULT and posting.outcome.result is not None
    boxes = posting.outcome.result.detections
    assert boxes is not None and boxes.tracker_id is not None and boxes.tracker_id.tolist() == [7]


class _Task:
    """A task with every optional protocol."""

    name = "raw"

    def __init__(self) -> None:
        self.begun: list[tuple[str, Mapping[str, Any]]] = []

    def new_session(self, spec: ModelSpec, parameters: Mapping[str, Any]) -> Remembers:
        self.begun.append((spec.name, parameters))
        return Remembers()

    def draw(self, rgb: PixelArray, result: TaskResult, labels: Sequence[str], threshold: float) -> None:
        assert isinstance(result, RawTensors) and labels == ("x",) and threshold == 0.25
        rgb[:, :5] = result.tensors["level"]

    def move(self, result: TaskResult, scale: float, offset: tuple[float, float]) -> TaskResult:
        assert isinstance(result, RawTensors)
        return RawTensors({"xy": result.tensors["xy"] * scale + offset})

    def from_document(self, document: Mapping[str, Any]) -> RawTensors:
        return RawTensors({"level": np.array(document["level"])})


def test_protocols_are_found_by_their_methods() -> None:
    task: Any = _Task()
    assert isinstance(task, Draws) and isinstance(task, Moves) and isinstance(task, Stateful)
    assert isinstance(Asks(), ShapesRequests) and not isinstance(Remembers(), ShapesRequests)
    for name in ("classification", "embedding", "raw"):
        other = task_named(name)
        assert not isinstance(other, Stateful) and not isinstance(other, Moves)
    spec = ModelSpec.model_construct(name="m")
    begin = session_of(task, spec, {"a": 1})
    assert begin is not None and isinstance(begin(), Remembers) and task.begun == [("m", {"a": 1})]
    assert session_of(task_named("raw"), spec, {}) is None


def test_places_are_moved_by_scale_and_offset() -> None:
    task: Any = _Task()
    point = moved(task, RawTensors({"xy": np.array([2.0, 3.0])}), 2.0, (10, 20))
    assert isinstance(point, RawTensors) and point.tensors["xy"].tolist() == [14.0, 26.0]
    box = Detections(np.array([[1, 2, 3, 4]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    found = moved(task_named("detection"), box, 2.0, (10, 20))
    assert isinstance(found, Detections) and found.xyxy.tolist() == [[12, 24, 16, 28]]
    untouched = RawTensors({})
    assert moved(task_named("raw"), untouched, 2.0) is untouched


@pytest.mark.parametrize("over_the_log", [False, True])
def test_a_task_draws_its_own_results(over_the_log: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "task_named", lambda name: _Task())
    level = RawTensors({"level": np.array(200)})
    result = FrameResult("m", 1, "raw", OtherResult({"level": 200}) if over_the_log else level, "0" * 64)
    overlay = Overlay("p", Outcome.of_result(result), Detections.empty(), np.zeros(0, np.uint8))
    picture = np.zeros((120, 160, 3), np.uint8)
    shown = Drawing({"p": ("x",)}, 0.25, banner=False)(AlignedFrame(frame(0), 0, (overlay,), 0), picture, "")
    assert (shown[:, :5] == 200).all() and not shown[:, 5:].any() and not picture.any()
