"""The cascade as one detector of task face: faces where they are, bounds, errors by picture, checks of a file."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cascade_support import MARKS, STAGES, cascade, nets, r_net, redness, scene, spec_of_cascade
from pipeline_support import FakeModel, ask, colour, pipeline

from converters.check import check
from converters.check_pipeline import PipelineReport
from serving.errors import EngineFailed, SpecInvalid
from serving.pipelines import Part, Plan
from serving.pipelines.cascade import calibrated, inside, squared, without_covered
from serving.tasks import task_named
from serving.tasks.face import TASK, Faces
from serving.types import FloatArray, ImageSize, InferRequest, InferResponse, PixelArray

MODELS = Path(__file__).resolve().parents[3] / "models"


def faces(model: Any, *pictures: PixelArray, **parameters: Any) -> list[Faces]:
    answers = model.infer([InferRequest(frame=pixels, parameters=parameters) for pixels in pictures])
    found = []
    for answer in answers:
        assert isinstance(answer, InferResponse), answer
        assert isinstance(answer.result, Faces)
        found.append(answer.result)
    return found


def test_a_face_is_found_where_it_is_with_its_landmarks(tmp_path: Path) -> None:
    model = cascade(tmp_path, nets())
    (document,) = ask(model, scene(320, 240, (100, 70, 60)))
    assert document["task"] == "face" and set(document["timings_ms"]) >= {"propose", "refine", "faces", "decode"}
    assert document["detections"]
    for row in document["detections"]:
        x1, y1, x2, y2 = row["xyxy"]
        assert 98 <= x1 < x2 <= 162 and 68 <= y1 < y2 <= 132 and row["confidence"] > 0.7 and row["label"] == "face"
        sides, marks = np.array([x2 - x1, y2 - y1]), np.array(row["landmarks"])
        assert np.abs(marks - ([x1, y1] + MARKS.reshape(2, 5).T * sides)).max() < 0.02
    assert TASK.from_document(document).landmarks is not None


def test_nothing_found_costs_one_question_and_a_picture_that_is_too_small_none(tmp_path: Path) -> None:
    parts = nets()
    model = cascade(tmp_path, parts)
    empty, *small = faces(model, scene(320, 240), scene(11, 300, (0, 0, 11)), scene(19, 19, (0, 0, 19)), scene(1, 1))
    assert len(empty) == 0 and [len(one) for one in small] == [0, 0, 0] and empty.landmarks is not None
    assert (parts["p"].calls, parts["r"].calls, parts["o"].calls) == ([1], [], [])
    assert ask(model, scene(1, 1))[0]["detections"] == []


def test_however_many_candidates_there_are_work_is_bounded(tmp_path: Path) -> None:
    parts = nets()
    steps = deepcopy(STAGES)
    steps[0]["options"] |= {"most": 40}
    steps[1]["options"] = {"most": 7, "overlap": 1.0}
    (found,) = faces(cascade(tmp_path, parts, steps=steps), np.full((480, 640, 3), (255, 0, 0), np.uint8))
    assert sum(parts["r"].calls) == 40 and max(parts["r"].calls) == 16 and sum(parts["o"].calls) == 7
    assert 1 <= len(found) <= 7


@pytest.mark.parametrize(("width", "height"), [(6000, 4000), (300, 9000), (2561, 1700)])
def test_a_huge_picture_is_answered_in_its_own_pixels_by_the_same_work(tmp_path: Path, width: int, height: int) -> None:
    parts = nets()
    side = min(width, height) // 2
    (found,) = faces(cascade(tmp_path, parts), scene(width, height, (width // 4, height // 4, side)))
    if height < 9000:  # at 0.28 of its size the long one is narrower than a window that fits onto the plane
        assert len(found) >= 1
    for x1, y1, x2, y2 in found.xyxy:
        assert width / 4 - 9 <= x1 < x2 <= width / 4 + side + 9 and height / 4 - 9 <= y1 < y2 <= height / 4 + side + 9
    assert sum(parts["p"].calls) <= 1 and sum(parts["r"].calls) <= 400


def test_pictures_of_a_batch_are_asked_together_and_answered_as_alone(tmp_path: Path) -> None:
    pictures = [scene(320, 240, (100, 70, 60)), scene(200, 300), scene(500, 90, (20, 10, 50), (300, 20, 40))]
    parts = nets()
    together = faces(cascade(tmp_path, parts), *pictures)
    assert parts["p"].calls == [2, 1] and len(parts["r"].calls) == -(-sum(parts["r"].calls) // 16)
    for picture, one in zip(pictures, together, strict=True):
        (alone,) = faces(cascade(tmp_path, nets()), picture)
        assert np.array_equal(alone.xyxy, one.xyxy) and np.array_equal(alone.confidence, one.confidence)


def test_a_part_of_the_picture_is_answered_in_the_pictures_pixels(tmp_path: Path) -> None:
    picture, model = scene(320, 240, (100, 70, 60), (240, 20, 60)), cascade(tmp_path, nets())
    (part,) = faces(model, picture, roi="80,50,200,150")
    (cut,) = faces(model, np.ascontiguousarray(picture[50:150, 80:200]))
    assert len(part) and np.allclose(part.xyxy, cut.xyxy + np.tile([80, 50], 2), atol=2e-3)
    assert part.landmarks is not None and cut.landmarks is not None
    assert np.allclose(part.landmarks, cut.landmarks + np.array([80, 50]), atol=0.02)


def test_the_request_says_how_sure_and_how_many(tmp_path: Path) -> None:
    def half_sure(crop: FloatArray) -> list[FloatArray]:
        return [redness(crop) * np.float32(0.5), np.zeros(4, np.float32), MARKS]

    picture = scene(500, 90, (20, 10, 50), (300, 20, 40))
    model = cascade(tmp_path, nets(o=half_sure))
    assert len(faces(model, picture)[0]) == 0
    (many,) = faces(model, picture, score_threshold=0.3)
    assert len(many) >= 2 and (many.confidence <= 0.5).all() and (np.diff(many.confidence) <= 0).all()
    (one,) = faces(model, picture, score_threshold=0.3, max_detections=1)
    assert np.array_equal(one.xyxy, many.xyxy[:1])


@pytest.mark.parametrize("broken", ["p", "r", "o"])
def test_what_a_network_fails_at_is_the_pictures_own_error(tmp_path: Path, broken: str) -> None:
    sound = nets()[broken].net

    def net(tensor: FloatArray) -> Any:
        return EngineFailed(f"{broken}: broke") if tensor[2].max() > 200 else sound(tensor)

    good, bad = scene(320, 240, (100, 70, 60)), scene(320, 240, (100, 70, 60))
    bad[90:100, 120:140] = (255, 0, 230)
    answers = cascade(tmp_path, nets(**{broken: net})).infer([InferRequest(frame=p) for p in (good, bad, good)])
    assert isinstance(answers[1], EngineFailed) and str(answers[1]).startswith(f"{broken}: broke")
    assert all(isinstance(answers[n], InferResponse) for n in (0, 2))


def test_it_is_a_detector_like_any_other_in_a_pipeline(tmp_path: Path) -> None:
    steps = [
        {"name": "faces", "do": "infer", "model": "reds", "parameters": {"score_threshold": 0.7}},
        {"name": "chip", "do": "crop", "of": "faces"},
        {"name": "look", "do": "infer", "of": "chip", "model": "embedder"},
        {"name": "who", "do": "match", "of": "look", "gallery": "people", "options": {"threshold": 0.95}},
    ]
    inner = cascade(tmp_path, nets())
    parts: dict[str, Any] = {"reds": inner, "embedder": FakeModel("embedder", "embedding", colour)}
    outer = pipeline(tmp_path, parts, steps, {"detections": "faces", "fields": ["who"]})
    picture = scene(320, 240, (100, 70, 60))
    (alone,), (document,) = ask(inner, picture), ask(outer, picture)
    assert [row["xyxy"] for row in document["detections"]] == [row["xyxy"] for row in alone["detections"]]
    assert [row["landmarks"] for row in document["detections"]] == [row["landmarks"] for row in alone["detections"]]
    assert document["detections"][0]["who"]["reason"] == "empty_gallery"


def changed(place: int, **values: Any) -> list[dict[str, Any]]:
    steps = deepcopy(STAGES)
    steps[place] |= values
    return steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (changed(0, model=None), "steps.propose: cascade needs `model`"),
        (changed(0, model="o"), "steps.propose: model: o is no network of a cascade"),
        (changed(1, model="picky"), "steps.refine: model: picky is no network of a cascade"),
        (changed(1, model="p"), r"steps.refine: model: p takes \[3, 480, 672\], candidates are square"),
        (changed(2, options={"treshold": 1}), "steps.faces.options.treshold: .*known: threshold, overlap, most"),
        (changed(0, options={"smallest": 4}), "steps.propose.options.smallest"),
        ([*STAGES, {"name": "more", "do": "cascade", "of": "faces", "model": "r"}],
         "steps.more: of: faces gives no candidates"),
        ([{"name": "boxes", "do": "infer", "model": "p"}], "steps.boxes: model: p takes no pictures"),
        (changed(0, when={"min_side": 3}), "when: min_side: there are no boxes before this step"),
    ],
)  # fmt: skip
def test_each_fault_is_named_when_the_file_is_read(steps: list[dict[str, Any]], message: str) -> None:
    parts: dict[str, Any] = {**nets(), "picky": FakeModel("picky", "embedding", colour)}
    with pytest.raises(SpecInvalid, match=message):
        Plan.of(spec_of_cascade(steps), {name: Part.of(model.bundle) for name, model in parts.items()})


def test_task_face_takes_the_steps_of_a_cascade_and_no_others() -> None:
    check = task_named("face").check
    check(spec_of_cascade())
    for spec, message in (
        (spec_of_cascade(fields=("refine",)), "step 'refine' is not the last one"),
        (spec_of_cascade(fields=("face",)), "the last one told by answer.fields"),
        (spec_of_cascade([*STAGES, {"name": "cut", "do": "crop", "of": "faces"}]), "has steps `do: cascade`"),
        (spec_of_cascade(options={"nms_iou": 0.3}), "options: they stand in the steps"),
    ):
        with pytest.raises(SpecInvalid, match=message):
            check(spec)


def test_a_pipeline_over_a_cascade_is_checked_from_the_yamls_and_one_over_a_pipeline_refused(tmp_path: Path) -> None:
    for path in MODELS.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (MODELS / "face_identify.yaml").read_text("utf-8").replace("name: face_identify", "name: mine")
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace("model: face_retina", "model: face_mtcnn"))
    report = check(mine)
    assert isinstance(report, PipelineReport) and report.steps[0].model == "face_mtcnn"
    assert report.steps[0].gives == "face"
    mine.write_text(text.replace("model: face_retina", "model: face_identify"))
    with pytest.raises(SpecInvalid, match=r"steps.faces.model: face_identify is of task pipeline"):
        check(mine)
    mine.write_text(text.replace("model: face_retina", "model: silero_vad"))
    with pytest.raises(SpecInvalid, match=r"steps.faces: model: silero_vad takes no pictures"):
        check(mine)


def test_a_face_at_the_border_is_asked_about_by_what_is_in_the_picture() -> None:
    boxes = np.array([[-9.6, 3.2, 20.8, 33.6], [90.5, 70, 120, 99.5], [120, 3, 130, 13]], np.float32)
    assert inside(boxes, ImageSize(100, 80)).tolist() == [[0, 2, 20, 33], [89, 69, 100, 80], [119, 2, 100, 13]]


def test_boxes_become_square_around_their_middle_and_move_by_parts_of_their_sides() -> None:
    assert squared(np.array([[10, 10, 30, 20]], np.float32)).tolist() == [[10, 5, 30, 25]]
    assert squared(np.zeros((0, 4), np.float32)).shape == (0, 4)
    moved = calibrated(np.array([[1, 1, 10, 20]], np.float32), np.array([[0.1, 0.2, -0.1, 0.5]], np.float32))
    assert np.allclose(moved, [[2, 5, 9, 30]])


def test_a_box_within_a_better_one_goes_and_one_beside_it_stays() -> None:
    boxes = np.array([[1, 1, 100, 100], [30, 30, 60, 60], [80, 80, 140, 140], [1, 1, 99, 99]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.95], np.float32)
    assert without_covered(boxes, scores, 0.7).tolist() == [3, 2]


def test_windows_at_a_levels_edge_do_not_see_its_neighbour(tmp_path: Path) -> None:
    """Each level stands beside others on the plane: a red one must not make windows of a grey one red."""
    asked: list[int] = []

    def r_seen(crop: FloatArray) -> list[FloatArray]:
        asked.append(int(redness(crop)[0] > 0.5))
        return r_net(crop)

    faces(cascade(tmp_path, nets(r=r_seen)), scene(320, 240, (200, 0, 120), (0, 200, 40)))
    assert asked and all(asked), "every window that was proposed is red in the picture too"
