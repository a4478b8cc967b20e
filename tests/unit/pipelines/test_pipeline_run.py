"""A pipeline's answers: joined rows, nothing found, part of it failed, conditions, timings, galleries."""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from pipeline_support import (
    ANSWER,
    STEPS,
    FakeModel,
    ask,
    brightness,
    colour,
    enrol,
    faces,
    models,
    picture,
    pipeline,
    squares,
)

from serving.errors import EngineFailed, ImageInvalid, ParameterInvalid
from serving.gallery import Facts, Galleries, GalleryWriter
from serving.pipelines import PipelineModel
from serving.pipelines.kinds.crop import turn_of
from serving.tasks import task_named
from serving.tasks.base import moved
from serving.tasks.pipeline import PipelineResult
from serving.types import InferRequest, InferResponse


def test_each_box_gets_its_own_name(tmp_path: Path) -> None:
    parts = models()
    model = pipeline(tmp_path, parts)
    enrol(tmp_path, model, "red", "green")
    one, two = ask(model, picture("green", "red", "blue"), picture("red"))
    assert [row["label"] for row in one["detections"]] == ["Green", "Red", "unknown"]
    who = [row["who"] for row in one["detections"]]
    assert [w["status"] for w in who] == ["known", "known", "unknown"] and who[2]["reason"] == "below_threshold"
    assert who[0]["subject"] == "green" and who[0]["score"] > 0.99 and who[0]["gallery"] == "people"
    assert [row["label"] for row in two["detections"]] == ["Red"]
    assert parts["detector"].calls == [2] and parts["embedder"].calls == [4], "crops of both pictures go together"
    assert [seen.shape for seen in parts["embedder"].seen] == [(20, 20, 3)] * 4
    assert {"decode", "infer", "postprocess", "boxes", "crops", "look", "who"} == set(one["timings_ms"])
    assert one["task"] == "pipeline" and one["certificate_id"] == "chaincert" and "failures" not in one


def test_nothing_found_is_a_normal_answer_and_asks_no_further_model(tmp_path: Path) -> None:
    parts = models()
    (answer,) = ask(pipeline(tmp_path, parts), np.zeros((60, 60, 3), np.uint8))
    assert answer["detections"] == [] and "failures" not in answer
    assert parts["embedder"].calls == [] and answer["timings_ms"]["look"] < 1.0


def test_more_crops_than_a_batch_takes_are_asked_in_parts(tmp_path: Path) -> None:
    parts = models()
    (answer,) = ask(pipeline(tmp_path, parts), picture(*["red", "blue"] * 5))
    assert len(answer["detections"]) == 10 and parts["embedder"].calls == [4, 4, 2]


def test_an_empty_or_absent_gallery_knows_nobody(tmp_path: Path) -> None:
    model = pipeline(tmp_path, models())
    (answer,) = ask(model, picture("red"))
    assert answer["detections"][0]["who"]["reason"] == "empty_gallery"
    Galleries(tmp_path / "galleries").create(Facts("people", "demo"))
    (answer,) = ask(model, picture("red"))
    assert answer["detections"][0]["who"]["reason"] == "empty_gallery"
    assert answer["detections"][0]["label"] == "unknown" and "failures" not in answer


def test_what_is_enrolled_and_deleted_is_seen_at_once(tmp_path: Path) -> None:
    model = pipeline(tmp_path, models())
    enrol(tmp_path, model, "red")
    assert ask(model, picture("red"))[0]["detections"][0]["label"] == "Red"
    with GalleryWriter(Galleries(tmp_path / "galleries").get("people")) as writer:
        writer.remove("red")
    assert ask(model, picture("red"))[0]["detections"][0]["label"] == "unknown"
    Galleries(tmp_path / "galleries").delete("people")
    assert ask(model, picture("red"))[0]["detections"][0]["who"]["reason"] == "empty_gallery"


def test_a_gallery_of_another_chain_is_a_named_failure_and_the_boxes_stay(tmp_path: Path) -> None:
    other = pipeline(tmp_path, models(embedder=FakeModel("embedder2", "embedding", colour)))
    enrol(tmp_path, other, "red")
    (answer,) = ask(pipeline(tmp_path, models()), picture("red", "blue"))
    assert answer["failures"] == [{"step": "who", "code": "gallery_mismatch", "boxes": [0, 1]}]
    assert len(answer["detections"]) == 2 and "who" not in answer["detections"][0]
    assert answer["detections"][0]["label"] == "wide"


def test_one_crop_that_fails_is_left_out_by_name(tmp_path: Path) -> None:
    def picky(pixels: Any, parameters: Any) -> Any:
        return EngineFailed("no red") if pixels[..., 0].mean() > 100 else colour(pixels, parameters)

    parts = models(embedder=FakeModel("embedder", "embedding", picky))
    model = pipeline(tmp_path, parts)
    one, two = ask(model, picture("blue", "red"), picture("green"))
    assert one["failures"] == [{"step": "look", "code": "engine_failed", "boxes": [1]}]
    assert "who" in one["detections"][0] and "who" not in one["detections"][1]
    assert "failures" not in two
    steps = deepcopy(STEPS)
    steps[2]["on_error"] = "fail"
    one, two = ask(pipeline(tmp_path, parts, steps), picture("blue", "red"), picture("green"))
    assert isinstance(one["error"], EngineFailed) and len(two["detections"]) == 1


def test_a_detector_that_fails_is_the_requests_own_error(tmp_path: Path) -> None:
    def fails(pixels: Any, parameters: Any) -> Any:
        return EngineFailed("dark") if pixels.max() < 10 else squares(pixels, parameters)

    parts = models(detector=FakeModel("detector", "detection", fails, ("wide", "tall")))
    one, two = ask(pipeline(tmp_path, parts), np.zeros((60, 60, 3), np.uint8), picture("red"))
    assert isinstance(one["error"], EngineFailed) and len(two["detections"]) == 1


def test_a_picture_that_does_not_decode_is_its_own_error(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture("red")).save(buffer, "PNG")
    model = pipeline(tmp_path, models())
    bad, good = model.infer([InferRequest(encoded=b"no picture"), InferRequest(encoded=buffer.getvalue())])
    assert isinstance(bad, ImageInvalid) and isinstance(good, InferResponse)
    assert isinstance(model.infer([InferRequest(tensors={})])[0], ParameterInvalid)


def test_conditions_choose_boxes(tmp_path: Path) -> None:
    def rows(**when: Any) -> list[bool]:
        steps = deepcopy(STEPS)
        steps[1]["when"] = when
        (answer,) = ask(pipeline(tmp_path, models(), steps), picture("red", "green", "blue"))
        return ["who" in row for row in answer["detections"]]

    assert rows() == [True] * 3
    assert rows(min_confidence=0.7) == [False, True, True]
    assert rows(at_most=1) == [False, False, True], "the surest"
    assert rows(at_least=4) == [False] * 3
    assert rows(min_side=20) == [True] * 3 and rows(min_side=20.5) == [False] * 3
    assert rows(labels=["wide"]) == [True] * 3 and rows(labels=["tall"]) == [False] * 3


def test_branches_join_in_one_row_and_the_whole_picture_has_fields(tmp_path: Path) -> None:
    light = FakeModel("light", "classification", brightness, ("bright",))
    steps = [
        *STEPS, {"name": "light", "do": "infer", "of": "crops", "model": "light"},
        {"name": "scene", "do": "infer", "model": "light"},
    ]  # fmt: skip
    answer = {"detections": "boxes", "fields": ["who", "light", "scene"]}
    (found,) = ask(pipeline(tmp_path, models(light=light), steps, answer), picture("red", "blue"))
    assert all(set(row) >= {"who", "light"} for row in found["detections"])
    assert found["detections"][0]["light"]["classes"][0]["label"] == "bright"
    assert found["steps"]["scene"]["classes"][0]["score"] < found["detections"][0]["light"]["classes"][0]["score"]
    only = [{"name": "scene", "do": "infer", "model": "light"}]
    (found,) = ask(pipeline(tmp_path, models(light=light), only, {"fields": ["scene"]}), picture("red"))
    assert "detections" not in found and found["steps"]["scene"]["classes"]


def test_boxes_in_crops_come_home_to_the_picture(tmp_path: Path) -> None:
    steps = [
        {"name": "boxes", "do": "infer", "model": "detector"},
        {"name": "crops", "do": "crop", "of": "boxes", "options": {"margin": 0.5}},
        {"name": "inner", "do": "infer", "of": "crops", "model": "detector"},
    ]
    pixels = np.zeros((80, 200, 3), np.uint8)
    pixels[20:60, 100:120] = 200  # two squares, one over the other
    (found,) = ask(pipeline(tmp_path, models(), steps, {"detections": "boxes", "fields": ["inner"]}), pixels)
    first = found["detections"][0]
    assert first["xyxy"] == [100.0, 20.0, 120.0, 40.0]
    inner = [row["xyxy"] for row in first["inner"]["detections"]]
    assert inner and all(x1 >= 90 and y1 >= 10 for x1, y1, _, _ in inner), "in source pixels"


def test_roi_and_parameters_reach_the_step_that_gives_the_rows(tmp_path: Path) -> None:
    model = pipeline(tmp_path, models())
    pixels = picture("red", "green", "blue")
    (found,) = ask(model, pixels, roi="60,0,140,60")
    assert [row["xyxy"] for row in found["detections"]] == [[60.0, 20.0, 80.0, 40.0], [100.0, 20.0, 120.0, 40.0]]
    (found,) = ask(model, pixels, score_threshold=0.8)
    assert len(found["detections"]) == 1
    assert isinstance(ask(model, pixels, roi="0,0,900,900")[0]["error"], ParameterInvalid)
    assert isinstance(ask(model, pixels, treshold=1)[0]["error"], ParameterInvalid)


def test_embeddings_are_told_on_request_with_the_mark_of_their_chain(tmp_path: Path) -> None:
    model = pipeline(tmp_path, models())
    (found,) = ask(model, picture("red"), embeddings=True)
    look = found["detections"][0]["look"]
    assert len(look["embedding"]) == 3 and look["fingerprint"] == model.plan.chain("look")
    assert "look" not in ask(model, picture("red"))[0]["detections"][0]


class TestFaces:
    size: ClassVar[dict[str, Any]] = {"preprocess": {"width": 150, "height": 150}, "options": {"align": "dlib_150"}}

    def model(self, folder: Path, quality: dict[str, float], detector: Any = faces) -> tuple[PipelineModel, FakeModel]:
        task = "face" if detector is faces else "detection"
        parts = models(
            detector=FakeModel("detector", task, detector, ("face", "other")),
            embedder=FakeModel("embedder", "embedding", colour, **self.size),
        )
        steps = deepcopy(STEPS)
        steps[1] |= {"model": "embedder", "options": {"quality": quality}}
        return pipeline(folder, parts, steps, {**ANSWER, "fields": ["crops", "who"]}), parts["embedder"]

    @pytest.mark.parametrize("detector", [faces, squares])
    def test_chips_have_the_embedders_template_with_landmarks_or_a_box(self, tmp_path: Path, detector: Any) -> None:
        model, embedder = self.model(tmp_path, {}, detector)
        (found,) = ask(model, picture("red", "blue"))
        assert [seen.shape for seen in embedder.seen] == [(150, 150, 3)] * 2
        assert ("landmarks" in found["detections"][0]) == (detector is faces)

    def test_a_face_that_is_too_small_is_nobody_and_says_why(self, tmp_path: Path) -> None:
        model, _ = self.model(tmp_path, {"min_side": 30, "max_turn": 0.9})
        enrol(tmp_path, model, "red")
        (found,) = ask(model, picture("red"))
        row = found["detections"][0]
        assert row["who"] == {
            "status": "unknown", "label": "unknown", "gallery": "people", "reason": "low_quality: small",
            "score": 0.0, "margin": 0.0,
        }  # fmt: skip
        assert row["crops"]["good"] is False and row["crops"]["problems"] == ["small"] and row["crops"]["side"] == 20

    def test_turn_is_where_the_nose_lies_between_the_eyes(self) -> None:
        marks = np.array([[0, 0], [10, 0], [5, 5], [2, 9], [8, 9]], np.float32)
        assert turn_of(marks) == 0
        marks[2, 0] = 9
        assert turn_of(marks) == pytest.approx(0.8)
        spin = np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
        assert turn_of((marks @ spin).astype(np.float32)) == pytest.approx(0.8, abs=1e-5)

    def test_a_blurred_crop_is_less_sharp(self, tmp_path: Path) -> None:
        import cv2

        from serving.pipelines.kinds.crop import QualityOptions, measured

        noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
        sharp = cv2.resize(noise, (150, 150), interpolation=cv2.INTER_CUBIC)
        box = np.array([0, 0, 150, 150], np.float32)
        values = [
            measured(cv2.GaussianBlur(sharp, (0, 0), s) if s else sharp, box, None, QualityOptions()).sharpness
            for s in (0, 3, 6, 12)
        ]
        assert values == sorted(values, reverse=True) and values[0] > 3 * values[3]


def test_documents_come_back_and_move_with_the_frame(tmp_path: Path) -> None:
    task = task_named("pipeline")
    parts = models(detector=FakeModel("detector", "face", faces, ("wide", "tall")))
    model = pipeline(tmp_path, parts)
    enrol(tmp_path, model, "red")
    (answer,) = model.infer([InferRequest(frame=picture("red", "blue"))])
    assert isinstance(answer, InferResponse)
    document = task.to_document(answer.result, model.bundle.labels)
    again = task.from_document(document)
    assert isinstance(again, PipelineResult) and again.names == ("Red", "unknown")
    assert task.to_document(again, model.bundle.labels) == document
    larger = task.to_document(moved(task, again, 2.0, (10, 0)), ("wide",))
    assert larger["detections"][0]["xyxy"] == [50.0, 40.0, 90.0, 80.0]
    assert larger["detections"][0]["landmarks"][0] == [60.0, 54.0]
    assert task.agree(answer.result, again, task.default_gates["engine"], model.bundle.spec).ok
