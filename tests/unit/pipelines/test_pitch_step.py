"""The map as a model of its own, and people on it: documents, places, roi, hints, sessions of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.metrics.homography import field_error
from serving.bundle import ModelBundle
from serving.errors import ParameterInvalid, SpecInvalid
from serving.frames import AlignedFrame, Frame, FrameResult, LedgerKey, Outcome, Overlay, Posting
from serving.gallery import Galleries
from serving.pipelines import PipelineModel
from serving.records import ResultMessage, decode_result, encode_result
from serving.records.results import FrameTimes, ModelFacts
from serving.spec import ModelSpec
from serving.streams.drawing import Drawing
from serving.streams.sessions import Sessions
from serving.tasks import task_named
from serving.tasks.base import ShapesRequests
from serving.tasks.homography import TASK, Homography
from serving.tasks.pipeline import TASK as PIPELINE
from serving.tasks.pipeline import PipelineResult
from serving.testing.pitch_scene import Camera, Scene
from serving.types import Detections, InferRequest, InferResponse, PixelArray, TaskResult
from tests.unit.pipelines.pipeline_support import FakeModel, ask, pipeline

SIZE = (960, 540)
CAMERA, SCENE = Camera(look=(85, 40), focal=1.6, size=SIZE), Scene(seed=1)
PITCH_STEP = {"name": "pitch", "do": "pitch"}


def seen_boxes() -> np.ndarray[Any, Any]:
    boxes = SCENE.boxes(CAMERA)
    inside = (boxes[:, 0] > 0) & (boxes[:, 2] < SIZE[0]) & (boxes[:, 1] > 0) & (boxes[:, 3] < SIZE[1])
    return np.flatnonzero(inside)


def players(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
    boxes = SCENE.boxes(CAMERA)[seen_boxes()].astype(np.float32)
    return Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64))


def alone(folder: Path, **step: Any) -> PipelineModel:
    spec = ModelSpec.model_validate(
        {"name": "map", "task": "homography", "steps": [{**PITCH_STEP, **step}], "answer": {"fields": ["pitch"]}}
    )
    task_named("homography").check(spec)
    bundle = ModelBundle(spec, (), 1, folder, "mapcert", "pipeline", "f32", 1, (), ())
    return PipelineModel(bundle, {}, Galleries(folder / "galleries"))


@pytest.fixture(scope="module")
def view() -> PixelArray:
    return SCENE.draw(CAMERA)


@pytest.fixture(scope="module")
def near() -> str:
    return ",".join(str(v) for v in CAMERA.to_metres.ravel())


def test_a_picture_and_its_part_give_the_same_map(tmp_path: Path, view: PixelArray, near: str) -> None:
    whole, part = (
        ask(alone(tmp_path), view, near=near, **more)[0] for more in ({}, {"roi": f"100,20,{SIZE[0]},{SIZE[1]}"})
    )
    for document in (whole, part):
        assert (document["task"], document["state"], document["pitch"]["length_m"]) == ("homography", "known", 105)
        assert document["reprojection_error_px"] < 1 and document["inliers"] > 50 and "held_ms" not in document
        assert field_error(np.array(document["homography"]), CAMERA.to_metres, SIZE) < 0.3
        back = TASK.from_document(document)
        assert {k: document[k] for k in TASK.to_document(back, ())} == TASK.to_document(back, ())
        assert TASK.to_tensors(back, alone(tmp_path).bundle.spec)["homography"].shape == (3, 3)


def test_no_pitch_is_unknown_with_its_reason_and_a_bad_hint_is_an_error(tmp_path: Path) -> None:
    black = np.zeros((90, 160, 3), np.uint8)
    (document,) = ask(alone(tmp_path), black)
    assert (document["state"], document["homography"], document["why"]) == ("unknown", None, "no_grass")
    assert document["reprojection_error_px"] is None
    for near in ("1,2", "a,b", "0,0,0,0,0,0,0,0,0"):
        (answer,) = alone(tmp_path).infer([InferRequest(frame=black, parameters={"near": near})])
        assert isinstance(answer, ParameterInvalid)


def test_people_stand_where_they_were_drawn(tmp_path: Path, view: PixelArray, near: str) -> None:
    parts = {"detector": FakeModel("detector", "detection", players, ("person",))}
    steps = [{"name": "players", "do": "infer", "model": "detector"}, {**PITCH_STEP, "of": "players"}]
    model = pipeline(tmp_path, parts, steps, {"detections": "players", "fields": ["pitch"]})
    (document,) = ask(model, view, near=near)
    assert document["steps"]["pitch"]["state"] == "known"
    truth = SCENE.places()[seen_boxes()]
    told = np.array([[row["pitch"]["x_m"], row["pitch"]["y_m"]] for row in document["detections"]])
    assert len(told) > 5 and np.hypot(*(told - truth).T).max() < 0.5
    assert np.hypot(*(told[:, ::-1] - truth).T).max() > 5, "x and y exchanged must not pass"
    (none,) = ask(model, np.zeros_like(view))
    assert none["steps"]["pitch"]["state"] == "unknown"
    assert all("pitch" not in row for row in none["detections"])
    back = PIPELINE.from_document(document)
    rgb = view.copy()
    PIPELINE.draw(rgb, back, (), 0.2)
    assert (rgb != view).any(axis=2)[-150:, -300:].mean() > 0.5, "the small map is drawn"
    assert np.array_equal(drawn(view, over_the_log(document)), drawn(view, back)), "a mixer draws it from the record"
    nonsense: tuple[dict[str, Any], ...] = (
        {"steps": {"pitch": {"homography": "none"}}},
        {"steps": 3},
        {"steps": {"pitch": {"homography": []}}},
    )
    for spoilt in nonsense:
        assert (drawn(view, over_the_log({**document, **spoilt})) != view).any(), "a stranger's nonsense: boxes alone"


def test_the_map_is_of_the_roi_alone(tmp_path: Path, view: PixelArray) -> None:
    """As the boxes are: here the picture beside the pitch, then the pitch beside it."""

    def beside(pixels: PixelArray, parameters: Mapping[str, Any]) -> Detections:
        assert pixels.shape[1] in (200, SIZE[0])
        return players(pixels, parameters)

    parts = {"detector": FakeModel("detector", "detection", beside, ("person",))}
    steps = [{"name": "players", "do": "infer", "model": "detector"}, {**PITCH_STEP, "of": "players"}]
    model = pipeline(tmp_path, parts, steps, {"detections": "players", "fields": ["pitch"]})
    wide = np.hstack([np.zeros((SIZE[1], 200, 3), np.uint8), view])
    near = ",".join(str(v) for v in (CAMERA.to_metres @ [[1, 0, -200], [0, 1, 0], [0, 0, 1]]).ravel())
    (nothing,) = ask(model, wide, near=near, roi=f"0,0,200,{SIZE[1]}")
    assert (nothing["steps"]["pitch"]["state"], nothing["steps"]["pitch"]["why"]) == ("unknown", "no_grass")
    (document,) = ask(model, wide, near=near, roi=f"200,0,{SIZE[0] + 200},{SIZE[1]}")
    assert document["steps"]["pitch"]["state"] == "known"
    told = np.array([[row["pitch"]["x_m"], row["pitch"]["y_m"]] for row in document["detections"]])
    assert np.hypot(*(told - SCENE.places()[seen_boxes()]).T).max() < 0.5


def over_the_log(document: Mapping[str, Any]) -> TaskResult:
    """What a mixer gets of a worker's answer."""
    own = ("detections", "steps")
    posting = Posting(LedgerKey("cam", 1, 0, "demo"), 0, Outcome.of_result(frame_result(Detections.empty())))
    times, model = FrameTimes(0, Fraction(1, 90_000)), ModelFacts("demo", 1, "pipeline")
    sent = encode_result(ResultMessage(posting, model, times, {n: document[n] for n in own}, SIZE))
    outcome = decode_result(sent.key, sent.value, sent.headers).posting.outcome
    assert outcome.result is not None
    return outcome.result.result


def frame_result(found: TaskResult) -> FrameResult:
    return FrameResult("demo", 1, "pipeline", found, "0" * 64)


def drawn(view: PixelArray, found: TaskResult) -> PixelArray:
    assert isinstance(found, Detections)
    frame = Frame("cam", 1, 0, 0, 0, Fraction(1, 90_000), ("demo",), 0)
    overlay = Overlay("demo", Outcome.of_result(frame_result(found)), found, np.zeros(len(found), np.uint8))
    return Drawing({"demo": ("person",)})(AlignedFrame(frame, 0, (overlay,), 0), view, "")


@pytest.mark.parametrize(
    ("step", "message"),
    [({"options": {"length": 30}}, "options.length"), ({"options": {"size": 3}}, "known: length, width")],
)
def test_faults_of_the_step_are_named(tmp_path: Path, step: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        alone(tmp_path, **step)


def of_map(shift: float = 0.0) -> Homography:
    return Homography(np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1.0]]) @ CAMERA.to_metres, 0.4, 100, 0.95)


def test_agreement_flips_with_the_state_and_with_metres(tmp_path: Path) -> None:
    spec, unknown = alone(tmp_path).bundle.spec, Homography(None, why="no_fit")
    assert TASK.agree(of_map(), of_map(0.05), {}, spec).ok and TASK.agree(unknown, unknown, {}, spec).ok
    assert not TASK.agree(of_map(), of_map(0.5), {}, spec).ok
    assert not TASK.agree(of_map(), unknown, {}, spec).ok
    moved = TASK.move(of_map(), 2.0, (10, 20))
    assert isinstance(moved, Homography) and moved.matrix is not None
    at = np.array([400 * 2 + 10, 300 * 2 + 20, 1.0])
    one, other = moved.matrix @ at, CAMERA.to_metres @ [400, 300, 1]
    assert np.allclose(one[:2] / one[2], other[:2] / other[2])


def test_a_new_epoch_starts_with_no_map(tmp_path: Path, near: str) -> None:
    spec, sessions = alone(tmp_path).bundle.spec, Sessions()
    asked: list[str | None] = []

    def infer(requests: Any) -> list[InferResponse]:
        asked.extend(request.parameters.get("near") for request in requests)
        return [InferResponse(of_map(), None, {})]

    blank = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for epoch, seq, pts_ns in ((1, 0, 0), (1, 1, 40_000_000), (2, 0, 0), (2, 1, 40_000_000)):
        frame = Frame("cam", epoch, seq, pts_ns, pts_ns, Fraction(1, 10**9), ("map",), 0)
        (session,) = sessions.of(frame, "map", [lambda: TASK.new_session(spec, {})])
        assert isinstance(session, ShapesRequests)
        answer = session.ask(InferRequest(frame=blank), infer, pts_ns)
        assert isinstance(answer, InferResponse)
        session.update(answer.result, pts_ns, blank)
    assert [hint is None for hint in asked] == [True, False, True, False], "the filter is not reset at an epoch"


def test_a_pipelines_places_follow_the_filtered_map() -> None:
    boxes = players(np.zeros((1, 1, 3), np.uint8), {})
    spec = ModelSpec.model_validate({
        "name": "demo", "task": "pipeline", "steps": [{"name": "players", "do": "infer", "model": "d"},
        {**PITCH_STEP, "of": "players"}], "answer": {"detections": "players", "fields": ["pitch"]},
    })  # fmt: skip
    session = PIPELINE.new_session(spec, {})
    blank = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)

    def frame(told: Homography) -> PipelineResult:
        columns = boxes.xyxy, boxes.confidence, boxes.class_id
        empty: tuple[Mapping[str, Any], ...] = ({},) * len(boxes)
        names = ("",) * len(boxes)
        return PipelineResult(*columns, joined=empty, names=names, whole={"pitch": TASK.to_document(told, ())})

    first = session.update(frame(of_map()), 0, blank)
    assert isinstance(first, PipelineResult) and all("pitch" in row for row in first.joined)
    far = session.update(frame(replace(of_map(), matrix=Camera(look=(20, 40)).to_metres)), 40_000_000, blank)
    assert isinstance(far, PipelineResult)
    assert far.whole["pitch"]["state"] == "unknown" and far.whole["pitch"]["why"] == "jump"
    assert all("pitch" not in row for row in far.joined), "places of a map that is not told"
