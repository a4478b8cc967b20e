"""Targets on a worker's streams: begun at their time, followed, forgotten with their epoch, refused outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serving.errors import EngineFailed, ParameterInvalid, ServingError, SpecInvalid
from serving.frames import Frame, Picture
from serving.ports import ServerReply
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec
from serving.streams.main import RunOptions, run_streams
from serving.streams.models import OpenedModel
from serving.streams.remote import RemoteInfer
from serving.streams.sessions import Sessions, session_of
from serving.streams.worker import Pipeline, Region, Worker
from serving.targets import Aim, TargetInvalid, parse_target
from serving.tasks import task_named
from serving.tasks.single_object_tracking import FeatureMap, Followed
from serving.testing.stub_bundles import make_bundle
from serving.types import FloatArray, InferRequest, InferResponse, PixelArray

PREPROCESS = {"width": 127, "height": 127, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MODEL = {
    "name": "siamfc",
    "task": "single_object_tracking",
    "factory": {"callable": "models.architectures.siamfc:siamfc"},
    "preprocess": PREPROCESS,
    "labels": ("target",),
    "outputs": ("features",),
}
SPEC = ModelSpec.model_validate(MODEL)
TASK = task_named("single_object_tracking")
WIDE, HIGH, STEP_NS = 320, 200, 40_000_000
BOX = (40, 60, 80, 100)


def picture(x: int, y: int = 60) -> PixelArray:
    """A chequered square of 40 pixels whose corner is at (x, y), over faint waves."""
    rows, columns = np.mgrid[0:HIGH, 0:WIDE]
    rgb = np.stack([110 + 8 * np.sin(columns / 9), 110 + 8 * np.sin(rows / 7), 110 + 0 * rows], axis=2).astype(np.uint8)
    tiles = (np.arange(40) // 10)[:, None] * 3 + (np.arange(40) // 10)[None, :] * 5
    rgb[y : y + 40, x : x + 40] = np.stack([tiles * 37 % 256, tiles * 91 % 256, tiles * 53 % 256], axis=2)
    return rgb


def maps(pixels: PixelArray) -> FloatArray:
    """Of every cell the colours around its middle, about the crop's mean (a stand-in for the network)."""
    values = cv2.blur(pixels.astype(np.float32) - pixels.mean(axis=(0, 1)), (4, 4))
    at = 16 + 4 * np.arange(24)
    found = np.concatenate([values[np.ix_(at + dy, at + dx)] for dy in (-4, 4) for dx in (-4, 4)], axis=2)
    found = found.transpose(2, 0, 1)
    return np.asarray(found / np.sqrt((found**2).sum(axis=0) + 200.0), np.float32)


class Model:
    """Answers search crops; fails when told to."""

    def __init__(self) -> None:
        self.fails, self.crops = 0, 0

    def __call__(self, requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        self.crops += len(requests)
        if self.fails:
            self.fails -= 1
            return [EngineFailed("for a moment")] * len(requests)
        found = []
        for request in requests:
            assert request.frame is not None and request.frame.shape == (127, 127, 3) and not request.parameters
            found.append(
                InferResponse(FeatureMap(maps(request.frame), np.zeros((17, 17), np.float32)), None, {"infer": 1.0})
            )
        return list(found)


def worker(model: Model, *aims: Aim, roi: str = "") -> Worker:
    pipeline = Pipeline(
        "siamfc", 1, TASK.name, model, lambda result: TASK.to_document(result, ("target",)),
        new_session=session_of(TASK, SPEC, {}),
    )  # fmt: skip
    return Worker([pipeline], {"gate": Region(roi, targets=aims)})


def frame(seq: int, x: int, epoch: int = 1) -> Frame:
    return Frame(
        "gate", epoch, seq, seq * STEP_NS, seq * 40, Fraction(1, 1000), ("siamfc",), 0, Picture(array=picture(x))
    )


def told(made: Worker, asked: Frame) -> dict[str, Any]:
    (posting,) = made.analyse(asked)
    assert posting.outcome.result is not None, posting.outcome
    return dict(TASK.to_document(posting.outcome.result.result, ("target",)))


def test_a_target_is_followed_from_its_own_time_on() -> None:
    made = worker(Model(), Aim(1, BOX, pts_ns=2 * STEP_NS))
    assert told(made, frame(0, 30)) == {"targets": [], "detections": []}
    assert told(made, frame(2, 40))["targets"][0]["xyxy"] == [40, 60, 80, 100]
    for seq in range(3, 12):
        document = told(made, frame(seq, 40 + 4 * (seq - 2)))
    (box,), (target,) = document["detections"], document["targets"]
    assert target["state"] == "tracking" and box["track_id"] == target["target_id"] == 1
    assert box["label"] == "target" and box["origin"] == "measured"
    assert np.abs(np.array(box["xyxy"]) - [76, 60, 116, 100]).max() < 4
    assert TASK.to_document(TASK.from_document(document), ("target",)) == document


def test_two_targets_and_one_that_is_given_later_and_one_that_is_taken_away() -> None:
    region = {"gate": Region(targets=(Aim(1, BOX),))}
    made = worker(Model())
    made._regions = region
    told(made, frame(0, 40))
    region["gate"] = Region(targets=(Aim(1, BOX), Aim(2, (100, 20, 150, 60), pts_ns=STEP_NS)))
    assert [row["target_id"] for row in told(made, frame(1, 44))["targets"]] == [1, 2]
    region["gate"] = Region(targets=(Aim(2, (100, 20, 150, 60), pts_ns=STEP_NS),))
    assert [row["target_id"] for row in told(made, frame(2, 48))["targets"]] == [2]


def test_nothing_is_kept_over_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the defect that keeps a session is seen by it."""

    def states(made: Worker) -> list[Any]:
        told(made, frame(0, 40))
        told(made, frame(1, 44))
        return list(told(made, frame(0, 200, epoch=2))["targets"])

    again = Aim(2, (200, 60, 240, 100), epoch=2)
    assert states(worker(Model(), Aim(1, BOX))) == []
    (fresh,) = states(worker(Model(), Aim(1, BOX), again))
    assert fresh["target_id"] == 2 and fresh["xyxy"] == [200, 60, 240, 100]
    of = Sessions.of

    def kept_on(self: Sessions, asked: Frame, *more: Any) -> Any:
        return of(self, replace(asked, epoch=1, pts_ns=asked.pts_ns + asked.epoch * 10**9), *more)

    monkeypatch.setattr(Sessions, "of", kept_on)
    monkeypatch.setattr(Aim, "__eq__", lambda self, other: True)
    monkeypatch.setattr(Aim, "__hash__", lambda self: 1)
    (kept,) = states(worker(Model(), Aim(1, BOX), again))
    assert kept["xyxy"] != [200, 60, 240, 100]


def test_a_missed_beginning_is_said_and_no_other_picture_taken_for_it() -> None:
    """A worker that takes over in mid-stream has no template."""
    model = Model()
    (target,) = told(worker(model, Aim(1, BOX)), frame(200, 40))["targets"]
    assert target == {"target_id": 1, "state": "lost", "score": 0.0, "xyxy": [40, 60, 80, 100]}
    assert model.crops == 0


def test_a_failed_attempt_is_made_again_from_the_same_past() -> None:
    model, calm = Model(), Model()
    shaken, sound = worker(model, Aim(1, BOX)), worker(calm, Aim(1, BOX))
    for seq in range(4):
        model.fails = seq % 2
        assert told(shaken, frame(seq, 40 + 4 * seq)) == told(sound, frame(seq, 40 + 4 * seq))


def test_a_box_outside_the_picture_is_refused() -> None:
    with pytest.raises(TargetInvalid, match="inside the picture of 320x200") as caught:
        worker(Model(), Aim(1, (300, 150, 340, 190))).analyse(frame(0, 40))
    assert caught.value.code == "target_invalid" and isinstance(caught.value, ParameterInvalid)


@pytest.mark.parametrize(
    "text", ["1,2,3", "1,2,3,4@", "-1,2,30,40", "30,2,10,40", "5,5,7,40", "a,b,c,d", "1,2,30,40@1e9"]
)
def test_a_box_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(TargetInvalid):
        parse_target(text, 1)


def test_a_box_with_a_time() -> None:
    assert parse_target("1,2,30,40@1.04", 3) == Aim(3, (1, 2, 30, 40), pts_ns=1_040_000_000)
    assert parse_target("1,2,30,40", 1).pts_ns == 0


def test_a_region_of_interest_bounds_the_search_and_boxes_stay_in_source_pixels() -> None:
    made = worker(Model(), Aim(1, BOX), roi="20,40,300,190")
    told(made, frame(0, 40))
    (box,) = told(made, frame(1, 44))["detections"]
    assert np.abs(np.array(box["xyxy"]) - [44, 60, 84, 100]).max() < 4


def test_run_follows_from_the_command_lines_box_to_the_results_file(tmp_path: Path) -> None:
    film = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (WIDE, HIGH))
    for seq in range(14):
        film.write(np.ascontiguousarray(picture(40 + 4 * seq)[:, :, ::-1]))
    film.release()
    bundle = make_bundle(tmp_path / "repository", **{k: v for k, v in MODEL.items() if k != "factory"})  # type: ignore[arg-type]
    opened = OpenedModel(bundle, Model(), lambda: None)
    options = RunOptions(
        (str(tmp_path / "clip.avi"),), ("siamfc",), results=tmp_path / "results.jsonl", target=("48,60,88,100@0.08",)
    )
    assert run_streams(options, lambda name: opened).ok
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 14 and [len(line["targets"]) for line in lines] == [0, 0] + [1] * 12
    (box,) = lines[-1]["detections"]
    assert (
        np.abs(np.array(box["xyxy"]) - [92, 60, 132, 100]).max() < 5 and lines[-1]["targets"][0]["state"] == "tracking"
    )
    with pytest.raises(ParameterInvalid, match="--target"):
        run_streams(replace(options, target=()), lambda name: opened)
    with pytest.raises(TargetInvalid, match="no source named door"):
        run_streams(replace(options, target=("door=1,2,30,40",)), lambda name: opened)
    outside = replace(options, target=("300,60,340,100",), results=tmp_path / "other.jsonl")
    with pytest.raises(TargetInvalid, match="inside the picture"):
        run_streams(outside, lambda name: opened)


@pytest.mark.needs("torch")
def test_training_and_serving_see_the_same_numbers_and_a_forgotten_mean_is_seen() -> None:
    from models.train.siamfc import tensor_of

    rule, crop = SPEC.preprocess, picture(40)[20:147, 20:147]
    assert rule is not None
    expected = tensor_of(crop[None])[0].numpy()
    assert np.abs(prepare(crop, rule).tensor - expected).max() < 1e-5
    forgotten = rule.model_copy(update={"mean": (), "std": ()})
    assert np.abs(prepare(crop, forgotten).tensor - expected).max() > 0.5


def test_the_answer_to_one_picture_and_the_gate_on_it() -> None:
    found = TASK.postprocess({"features": maps(picture(40)[20:147, 20:147])}, None, SPEC, {})
    assert isinstance(found, FeatureMap) and found.likeness.shape == (17, 17)
    assert int(found.likeness.argmax()) == 8 * 17 + 8, "nothing is more like the middle than itself"
    document = TASK.to_document(found, ())
    assert document["features"] == {"shape": [12, 24, 24]}
    back = TASK.from_document(document)
    assert TASK.agree(found, back, {"likeness": 1e-6}, SPEC).ok
    moved = FeatureMap(found.features, found.likeness + np.float32(0.06))
    assert not TASK.agree(found, moved, TASK.default_gates["engine"], SPEC).ok


def test_a_session_that_asks_a_server_gets_the_map_itself() -> None:
    """The document tells its shape only."""
    found = TASK.postprocess({"features": maps(picture(40)[20:147, 20:147])}, None, SPEC, {})
    fields = {"certificate_id": "abcdef012345", **TASK.to_document(found, ())}
    document = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    tensors = {name: array[None] for name, array in TASK.to_tensors(found, SPEC).items()}
    infer = RemoteInfer(lambda: pytest.fail("not asked"), "siamfc", "1", "abcdef012345", TASK.name, 1.0)
    try:
        answer = infer._response(ServerReply("siamfc", "1", {**tensors, "result": document[None]}))
    finally:
        infer.close()
    assert isinstance(answer.result, FeatureMap) and isinstance(found, FeatureMap)
    assert np.array_equal(answer.result.features, found.features)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"lost_below": 0.9}}, "found_above"),
        ({"options": {"speed": 1}}, "speed"),
        ({"outputs": ("a", "b")}, "expected one"),
    ],
)
def test_a_spec_that_cannot_follow_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        TASK.check(SPEC.model_copy(update=change))


def test_followed_boxes_are_those_that_are_tracked() -> None:
    found = TASK.from_document(
        {"targets": [
            {"target_id": 1, "state": "lost", "score": 0.1, "xyxy": [1, 2, 30, 40]},
            {"target_id": 2, "state": "tracking", "score": 0.9, "xyxy": [5, 6, 70, 80]},
        ]}
    )  # fmt: skip
    assert isinstance(found, Followed) and found.tracker_id is not None and found.tracker_id.tolist() == [2]
    assert len(found.targets) == 2
