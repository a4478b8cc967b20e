"""Each task file: outputs become results, parameters are checked, and agreement notices a changed decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.errors import ParameterInvalid, SpecInvalid
from serving.spec import ModelSpec
from serving.tasks import task_named, task_names
from serving.tasks.base import CountsClasses, ReadsLabels, parse_parameters
from serving.types import Classification, Detections, Embedding, ImageSize, ImageTransform, RawTensors

SAME = ImageTransform(ImageSize(100, 100), ImageSize(100, 100), (1.0, 1.0))


def spec(task: str, **more: Any) -> ModelSpec:
    base: dict[str, Any] = {"name": "m", "task": task, "checkpoint": {"format": "onnx", "path": "m.onnx"}}
    if task == "raw":
        base |= {"inputs": [{"name": "x", "shape": [3]}], "outputs": ["y"]}
    else:
        base["preprocess"] = {"width": 100, "height": 100}
    return ModelSpec.model_validate(base | more)


def test_every_task_file_is_found_and_named_like_its_file() -> None:
    assert {"classification", "detection", "embedding", "raw"} <= set(task_names())
    assert all(task_named(name).name == name for name in task_names())
    with pytest.raises(SpecInvalid, match="unknown task 'clasification'; known tasks: .*classification"):
        task_named("clasification")


class TestParameters:
    model = spec("detection", thresholds={"night": {"score_threshold": 0.6}})
    task = task_named("detection")

    def test_a_scenario_fills_what_the_caller_left_out(self) -> None:
        assert parse_parameters(self.task, self.model, {"scenario": "night"})["score_threshold"] == 0.6
        both = {"scenario": "night", "score_threshold": "0.2"}
        assert parse_parameters(self.task, self.model, both)["score_threshold"] == 0.2

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"score_threshold": "-0.1"}, "score_threshold: expected 0.0 to 1.0, got -0.1"),
            ({"score_threshold": "nan"}, "score_threshold: expected 0.0 to 1.0, got nan"),
            ({"score_threshold": "much"}, "score_threshold: expected float, got 'much'"),
            ({"max_detections": 1.5}, "max_detections: expected int, got '1.5'"),
            ({"topk": 3}, "unknown parameter 'topk'; m takes max_detections, roi, scenario, score_threshold"),
            ({"scenario": "dusk"}, r"scenario: expected one of \['night'\], got 'dusk'"),
        ],
    )
    def test_a_bad_parameter_is_named(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ParameterInvalid, match=message):
            parse_parameters(self.task, self.model, given)


class TestClassification:
    task = task_named("classification")

    def result(self, logits: list[float], **parameters: Any) -> Classification:
        raw = {"logits": np.array(logits, np.float32)}
        found = self.task.postprocess(raw, SAME, spec("classification"), parameters)
        assert isinstance(found, Classification)
        return found

    def test_softmax_best_first_ties_to_the_lower_id(self) -> None:
        found = self.result([1.0, 3.0, 3.0], top_k=2)
        assert found.class_id.tolist() == [1, 2]
        assert found.score.sum() == pytest.approx(2 * np.exp(3) / (np.exp(1) + 2 * np.exp(3)))

    def test_huge_logits_do_not_overflow(self) -> None:
        assert self.result([9e4, -9e4]).score.tolist() == [1.0, 0.0]

    def test_agreement_notices_a_changed_top_1_only_beyond_the_margin(self) -> None:
        sure, near = self.result([0.0, 4.0]), self.result([0.01, 0.0])
        other = self.result([4.0, 0.0])
        assert not self.task.agree(sure, other, {"margin": 0.05}, spec("classification")).ok
        assert self.task.agree(near, self.result([0.0, 0.01]), {"margin": 0.05}, spec("classification")).ok
        assert not self.task.agree(near, self.result([0.0, 0.01]), {"margin": 0.0}, spec("classification")).ok

    def test_the_score_is_the_share_of_right_answers(self) -> None:
        results = [self.result([0.0, 4.0]), self.result([4.0, 0.0])]
        assert self.task.score("top1", results, ["1", "1"], spec("classification")) == 0.5
        with pytest.raises(SpecInvalid, match="expected top1, top5 or f1"):
            self.task.score("f2", results, ["1", "1"], spec("classification"))


BOXES = np.array([[10, 10, 50, 50], [12, 10, 50, 50], [60, 60, 90, 90]], np.float32)
SCORES = np.array([[0.1, 0.9], [0.2, 0.8], [0.4, 0.6]], np.float32)


class TestDetection:
    task = task_named("detection")

    def run(self, raw: dict[str, np.ndarray], options: dict[str, Any], **parameters: Any) -> Detections:
        found = self.task.postprocess(raw, SAME, spec("detection", options=options), parameters)
        assert isinstance(found, Detections)
        return found

    def test_background_and_suppression(self) -> None:
        found = self.run({"boxes": BOXES, "scores": SCORES}, {"background_class": True})
        assert found.xyxy.tolist() == [[10, 10, 50, 50], [60, 60, 90, 90]]
        assert found.class_id.tolist() == [0, 0]

    def test_yolo_layouts_give_the_same_boxes(self) -> None:
        cxcywh = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1)
        v5 = np.concatenate([cxcywh, np.ones((3, 1)), SCORES], 1).astype(np.float32)
        v8 = np.concatenate([cxcywh, SCORES], 1).T.astype(np.float32)
        plain = self.run({"boxes": BOXES, "scores": SCORES}, {})
        for raw, decode in ((v5, "yolov5"), (v8, "yolov8")):
            found = self.run({"output": raw}, {"decode": decode})
            assert np.allclose(found.xyxy, plain.xyxy) and found.class_id.tolist() == plain.class_id.tolist()

    @pytest.mark.parametrize("decode", ["boxes_scores", "yolov8"])
    def test_logits_become_scores_before_anything_is_left_out(self, decode: str) -> None:
        logits = np.log(SCORES / (1 - SCORES))
        raw = {"boxes": BOXES, "scores": logits}
        if decode == "yolov8":
            cxcywh = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1)
            raw = {"output": np.concatenate([cxcywh, logits], 1).T.astype(np.float32)}
        plain = self.run({"boxes": BOXES, "scores": SCORES}, {})
        found = self.run(raw, {"decode": decode, "activation": "sigmoid"})
        assert np.allclose(found.confidence, plain.confidence, atol=1e-6) and found.class_id.tolist() == [1, 1, 0]
        softmax = self.run({"boxes": BOXES, "scores": np.log(SCORES)}, {"activation": "softmax"})
        assert np.allclose(softmax.confidence, plain.confidence, atol=1e-6)

    def test_yolov5_reads_no_logits(self) -> None:
        with pytest.raises(SpecInvalid, match="decode yolov5 multiplies scores"):
            self.task.check(spec("detection", options={"decode": "yolov5", "activation": "sigmoid"}))

    def test_formats_and_frames(self) -> None:
        plain = self.run({"boxes": BOXES, "scores": SCORES}, {})
        swapped = BOXES[:, [1, 0, 3, 2]] / 100
        found = self.run({"boxes": swapped, "scores": SCORES}, {"box_format": "yxyx", "box_frame": "unit"})
        assert np.allclose(found.xyxy, plain.xyxy, atol=1e-4)

    def test_threshold_limit_and_empty(self) -> None:
        assert len(self.run({"boxes": BOXES, "scores": SCORES}, {}, score_threshold=0.95)) == 0
        assert len(self.run({"boxes": BOXES, "scores": SCORES}, {}, max_detections=1)) == 1

    @pytest.mark.parametrize("wanted", [100, 500, 5000])
    def test_as_many_boxes_as_asked_for_and_none_below_the_floor(self, wanted: int) -> None:
        corner = np.stack(np.divmod(np.arange(8000, dtype=np.float32), 90), 1)
        scores = np.linspace(1, 0, 8000, dtype=np.float32)[:, None]
        raw = {"boxes": np.concatenate([corner, corner + 0.9], 1), "scores": scores}
        found = self.run(raw, {"score_floor": 0.25}, score_threshold=0.0, max_detections=wanted)
        assert len(found) == wanted and np.array_equal(found.confidence, scores[:wanted, 0])
        every = self.run(raw, {"score_floor": 0.9}, score_threshold=0.0, max_detections=wanted)
        assert len(every) == min(wanted, int((scores >= 0.9).sum())) and every.confidence.min() >= np.float32(0.9)

    def test_agreement_needs_every_sure_box_on_both_sides(self) -> None:
        all_, none = self.run({"boxes": BOXES, "scores": SCORES}, {}), Detections.empty()
        gate = {"threshold": 0.3, "margin": 0.05, "iou": 0.95, "score": 0.02}
        model = spec("detection")
        assert self.task.agree(all_, all_, gate, model).ok
        assert not self.task.agree(all_, none, gate, model).ok
        assert not self.task.agree(none, all_, gate, model).ok
        moved = Detections(all_.xyxy + 4, all_.confidence, all_.class_id)
        assert not self.task.agree(all_, moved, gate, model).ok
        assert self.task.agree(none, none, gate, model).ok

    @pytest.mark.parametrize(("lead", "ok"), [(0.01, True), (0.2, False)])
    def test_a_tie_in_suppression_may_go_either_way_a_clear_choice_may_not(self, lead: float, ok: bool) -> None:
        near = np.array([[10, 10, 50, 50], [12, 10, 52, 54]], np.float32)  # IoU 0.8: one object, two anchors
        scores = np.array([[0.7], [0.7 - lead]], np.float32)
        raw, swapped = {"b": near, "s": scores}, {"b": near, "s": scores[::-1].copy()}
        one, other = self.run(raw, {"nms_iou": 0.6}), self.run(swapped, {"nms_iou": 0.6})
        assert len(one) == len(other) == 1 and not np.array_equal(one.xyxy, other.xyxy)
        gate = {"threshold": 0.3, "margin": 0.05, "iou": 0.95, "score": 0.02}
        assert self.task.agree(one, other, gate, spec("detection", options={"nms_iou": 0.6})).ok is ok

    def test_outputs_of_the_wrong_number_are_refused_when_the_spec_is_read(self) -> None:
        with pytest.raises(SpecInvalid, match="boxes_scores reads 2, got"):
            self.task.check(spec("detection", outputs=["boxes"]))
        with pytest.raises(SpecInvalid, match=r"options.nms_iuo: .*known options: decode"):
            self.task.check(spec("detection", options={"nms_iuo": 0.4}))


@pytest.mark.parametrize(
    ("decode", "shapes"),
    [
        ("boxes_scores", [(7, 20)]),
        ("boxes_scores", [(20, 4), (21, 3)]),
        ("yolov5", [(20, 4), (20, 3)]),
        ("yolov5", [(20, 5)]),
        ("yolov8", [(3, 20)]),
        ("yolov8", [(7, 4, 5)]),
    ],
)
def test_outputs_of_another_layout_are_refused_with_their_shapes(decode: str, shapes: list[tuple[int, ...]]) -> None:
    raw = {f"output_{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    model = spec("detection", options={"decode": decode})
    with pytest.raises(SpecInvalid, match=rf"decode {decode} reads .*; the network gives output_0 \["):
        task_named("detection").postprocess(raw, SAME, model, {})


@pytest.mark.parametrize(
    ("task", "options", "shapes"),
    [
        ("classification", {}, [(3,)]),
        ("detection", {"decode": "yolov8"}, [(7, 20)]),
        ("detection", {"decode": "yolov5"}, [(20, 8)]),
        ("detection", {"decode": "boxes_scores", "background_class": True}, [(20, 4), (20, 4)]),
    ],
)
def test_classes_are_counted_in_the_networks_outputs(
    task: str, options: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    found = task_named(task)
    assert isinstance(found, CountsClasses)
    raw = {f"output_{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    assert found.count_classes(raw, spec(task, options=options)) == 3


@pytest.mark.parametrize(
    ("task", "metric", "good", "bad"),
    [
        ("classification", "top1", ["0", "1;0", "-1", ""], ["2", "-2", "cta"]),
        ("detection", "count_exact", ["0", "12"], ["-1", "two", ""]),
        ("face", "count_exact", ["1"], ["one"]),
        ("audio", "event_f1", ["0.5-1.25:cat;2-3:dog", ""], ["cat", "1-2:cow"]),
    ],
)
def test_labels_that_cannot_be_scored_are_refused(task: str, metric: str, good: list[str], bad: list[str]) -> None:
    found = task_named(task)
    assert isinstance(found, ReadsLabels)
    for label in good:
        found.check_label(metric, label, ("cat", "dog"))
    for label in bad:
        with pytest.raises(SpecInvalid):
            found.check_label(metric, label, ("cat", "dog"))


def test_embedding_normalises_and_compares_by_cosine() -> None:
    task, model = task_named("embedding"), spec("embedding")
    a = task.postprocess({"v": np.array([3, 4], np.float32)}, SAME, model, {})
    assert isinstance(a, Embedding) and np.allclose(a.vector, [0.6, 0.8])
    b = Embedding(np.array([0.8, 0.6], np.float32))
    assert task.agree(a, a, {"embedding_cosine": 0.999}, model).ok
    assert not task.agree(a, b, {"embedding_cosine": 0.999}, model).ok


def test_raw_compares_tensors_by_name_and_shape() -> None:
    task, model = task_named("raw"), spec("raw")
    a = task.postprocess({"y": np.array([1, 2, 3], np.float32)}, None, model, {})
    assert task.agree(a, a, {}, model).ok
    assert not task.agree(a, RawTensors({"y": np.zeros((1, 3))}), {}, model).ok
    assert not task.agree(a, RawTensors({"y": np.array([3.0, -2, 1])}), {}, model).ok
