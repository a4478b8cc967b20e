"""`answer.appearance`: each row's vector reaches the tracker, in process and as a server's tensor, and no document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_support import COLOURS, STEPS, FakeModel, ask, colour, models, picture, pipeline, spec_of

from serving.backend import RESULT, arrays_of, samples_of, stack
from serving.errors import EngineFailed, ParameterInvalid
from serving.frames import Frame, Picture
from serving.pipelines import PipelineModel
from serving.ports import ServerReply
from serving.streams.models import OpenedModel, in_process, pipeline_of
from serving.streams.remote import RemoteInfer
from serving.streams.worker import Worker
from serving.tasks import task_named
from serving.tasks.base import moved
from serving.trackers import check_looks
from serving.types import APPEARANCE, Array, Detections, FloatArray, InferRequest, InferResponse, PixelArray

ANSWER = {"detections": "boxes", "appearance": "look"}
NOBODY = np.zeros((60, 60, 3), np.uint8)
LOOKS = {n: colour(np.full((20, 20, 3), rgb, np.uint8), {}).vector for n, rgb in COLOURS.items()}
TASK = task_named("pipeline")


@pytest.fixture
def model(tmp_path: Path) -> PipelineModel:
    """Its crops are of boxes with 0.7 or more, so the first of several has no look."""
    steps = [*STEPS[:1], {**STEPS[1], "when": {"min_confidence": 0.7}}, STEPS[2]]
    return pipeline(tmp_path, models(), steps, ANSWER)


def found(model: PipelineModel, *pictures: PixelArray) -> list[Detections]:
    answers = model.infer([InferRequest(frame=pixels) for pixels in pictures])
    results = [answer.result for answer in answers if isinstance(answer, InferResponse)]
    return [result for result in results if isinstance(result, Detections)]


def reply(model: PipelineModel, pixels: PixelArray) -> dict[str, Array]:
    """What the backend answers to a request that names no outputs."""
    (answer,) = model.infer(list(samples_of({"frame": pixels[None]}, {})))
    assert isinstance(answer, InferResponse)
    wanted = {tensor.name for tensor in model.task.outputs(model.bundle.spec)} | {RESULT}
    return stack([arrays_of(model, answer, wanted)])


def read(tensors: dict[str, Array]) -> Detections:
    """The answer as a worker reads it that asks a server."""
    certificate_id = json.loads(tensors[RESULT].tobytes())["certificate_id"]
    remote = RemoteInfer(lambda: pytest.fail("not asked"), "demo", "1", certificate_id, "pipeline", 1.0)
    try:
        result = remote._response(ServerReply("demo", "1", tensors)).result
    finally:
        remote.close()
    assert isinstance(result, Detections)
    return result


def test_each_row_has_the_look_of_its_own_crop_and_zeros_where_it_was_not_cropped(model: PipelineModel) -> None:
    first, second = found(model, picture("green", "red", "blue"), picture("blue", "green", "red"))
    assert first.appearance is not None and second.appearance is not None
    assert np.array_equal(first.appearance, np.stack([np.zeros(3, np.float32), LOOKS["red"], LOOKS["blue"]]))
    assert np.array_equal(second.appearance, np.stack([np.zeros(3, np.float32), LOOKS["green"], LOOKS["red"]]))
    weak, nobody = found(model, picture("red"), NOBODY)
    assert len(weak) == 1 and weak.appearance is None and len(nobody) == 0 and nobody.appearance is None


def test_a_crop_that_fails_has_no_look_and_is_named(tmp_path: Path) -> None:
    def picky(pixels: PixelArray, parameters: Any) -> Any:
        return EngineFailed("no red") if pixels[..., 0].mean() > 100 else colour(pixels, parameters)

    parts = models(embedder=FakeModel("embedder", "embedding", picky))
    (boxes,) = found(model := pipeline(tmp_path, parts, STEPS[:3], ANSWER), picture("green", "red"))
    assert boxes.appearance is not None and not boxes.appearance[1].any()
    assert np.array_equal(boxes.appearance[0], LOOKS["green"])
    assert TASK.to_document(boxes, ())["failures"] == [{"step": "look", "code": "engine_failed", "boxes": [1]}]
    assert found(model, picture("red"))[0].appearance is None


@pytest.mark.parametrize("colours", [("green", "red", "blue"), ("red",), ()])
def test_a_server_sends_what_this_process_finds(model: PipelineModel, colours: Sequence[str]) -> None:
    pixels = picture(*colours) if colours else NOBODY
    (here,), there = found(model, pixels), read(reply(model, pixels))
    assert len(there) == len(here) == len(colours)
    if here.appearance is None:
        assert there.appearance is None
    else:
        assert there.appearance is not None and there.appearance.dtype == np.float32
        assert np.array_equal(there.appearance, here.appearance)


def test_vectors_of_another_number_of_boxes_are_the_servers_fault(model: PipelineModel) -> None:
    tensors = reply(model, picture("green", "red", "blue"))
    with pytest.raises(EngineFailed, match=r"Detections\.appearance: expected 3 rows"):
        read({**tensors, APPEARANCE: tensors[APPEARANCE][:, :2]})


def test_documents_and_tensors_of_other_pipelines_are_as_before(model: PipelineModel, tmp_path: Path) -> None:
    """A vector would be thousands of characters a box; who asks for embeddings gets them under the step's name."""
    (boxes,) = found(model, pixels := picture("green", "red"))
    row = {"xyxy", "confidence", "class_id", "label", "origin"}
    assert all(set(told) == row for told in TASK.to_document(boxes, ("wide",))["detections"])
    asked, plain = ask(model, pixels, embeddings=True)[0], ask(model, pixels)[0]
    assert len(asked["detections"][1]["look"]["embedding"]) == 3 and "look" not in json.dumps(plain["detections"])
    other = pipeline(tmp_path, models(), STEPS[:3], {"detections": "boxes"})
    assert set(reply(other, pixels)) == {"xyxy", "confidence", "class_id", RESULT}
    assert found(other, pixels)[0].appearance is None
    assert set(reply(model, pixels)) == {"xyxy", "confidence", "class_id", APPEARANCE, RESULT}


def test_looks_stay_with_their_boxes_when_these_are_moved(model: PipelineModel) -> None:
    (boxes,) = found(model, picture("green", "red"))
    larger = moved(TASK, boxes, 2.0, (10, 0))
    assert isinstance(larger, Detections) and larger.appearance is boxes.appearance


class Watching:
    """A tracker that keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[FloatArray | None] = []

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        self.seen.append(detections.appearance)
        ids = np.arange(len(detections), dtype=np.int64)
        return Detections(detections.xyxy, detections.confidence, detections.class_id, ids)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_worker_shows_them_to_its_tracker_and_keeps_none(model: PipelineModel, tracked: bool) -> None:
    tracker = Watching()
    worker = Worker([pipeline_of("demo", in_process(model), (lambda: tracker) if tracked else None, None, {})])
    shown = Picture(array=picture("green", "red"))
    (posting,) = worker.analyse(Frame("cam", 1, 0, 0, 0, Fraction(1, 25), ("demo",), 0, shown))
    result = posting.outcome.result
    assert result is not None and isinstance(result.result, Detections) and result.result.appearance is None
    if tracked:
        (seen,) = tracker.seen
        assert seen is not None and np.array_equal(seen[1], LOOKS["red"])
        assert result.result.tracker_id is not None and result.result.tracker_id.tolist() == [0, 1]


def test_who_compares_appearances_needs_somebody_who_tells_them(model: PipelineModel) -> None:
    detector = models()["detector"]
    classifier = FakeModel("kind", "classification", lambda pixels, parameters: pytest.fail("not asked"), ("a",))

    def looks(pixels: PixelArray, boxes: Detections) -> None:
        return None

    opened = [OpenedModel(m.bundle, m.infer, m.close) for m in (detector, classifier)]
    plain, other = (pipeline_of(one.bundle.name, one, Watching, None, {}) for one in opened)
    own = pipeline_of("demo", in_process(model), Watching, looks, {})
    helped = pipeline_of("detector", opened[0], Watching, looks, {})
    assert [p.blind for p in (plain, other, own, helped)] == [True, False, False, False]
    assert own.looks is None and helped.looks is looks and other.new_tracker is None
    with pytest.raises(ParameterInvalid, match=r"--track deepsort: expected --reid .*detector look like .*appearance"):
        check_looks("--track", "deepsort", [p.name for p in (plain, own) if p.blind])
    check_looks("--track", "bytetrack", ["detector"])
    check_looks("--track", "deepsort", [])


def test_the_spec_tells_its_tensor() -> None:
    tensor = TASK.outputs(spec_of(STEPS, ANSWER))[-1]
    assert (tensor.name, tensor.datatype, tensor.shape) == (APPEARANCE, "FP32", (-1, -1))
