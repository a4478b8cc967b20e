"""Rows from hand-made arrays: what passes, what fails, and which reason is given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from converters.parity import Judge, StageRow, failed, first_failed, not_run, numbers, summarise
from converters.rows_facts import constants_row, expected_score_row, labels_row, load_row
from converters.rows_gates import RowGate, gate_of
from converters.rows_network import Reference, Run, engine_row, groups, network_row
from converters.rows_preprocess import TrainingSide, preprocess_row
from serving.errors import EngineFailed
from serving.preprocess.reference import Prepared, prepare
from serving.spec import ExpectSpec, ModelSpec, PreprocessSpec
from serving.tasks import task_named
from serving.types import Array, Classification, Detections, EngineInfo, TensorSpec

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((12, 4)).astype(np.float32)
SIGNATURE = (TensorSpec("image", "FP32", (1, 3, 4)),)


def _spec(**changes: Any) -> ModelSpec:
    value: dict[str, Any] = {
        "name": "small",
        "task": "classification",
        "factory": {"callable": "somewhere:net"},
        "preprocess": {"width": 4, "height": 3, "colour": "grey"},
        "labels": ["a", "b", "c", "d"],
        "outputs": ["logits"],
    }
    return ModelSpec.model_validate({**value, **changes})


SPEC = _spec()
JUDGE = Judge(task_named("classification"), SPEC, ("a", "b", "c", "d"))


def _net(inputs: Mapping[str, Array]) -> dict[str, Array]:
    image = inputs["image"]
    return {"logits": image.reshape(len(image), -1) @ WEIGHT}


def _reference(count: int = 40) -> Reference:
    inputs = [{"image": RNG.standard_normal((1, 3, 4)).astype(np.float32)} for _ in range(count)]
    outputs = [{"logits": _net({"image": i["image"][None]})["logits"][0]} for i in inputs]
    return Reference([f"s{i}.png" for i in range(count)], inputs, outputs, [None] * count)


def _row(run: Run, stage: str = "engine_openvino", batches: tuple[int, ...] = (1, 8)) -> StageRow:
    gate = gate_of(stage, JUDGE.task, SPEC)
    return network_row(stage, "test", run, _reference(), JUDGE, gate, batches=batches)


def test_the_same_network_passes_and_its_figures_are_exact() -> None:
    row = _row(_net)
    assert row.status == "passed", row.reason
    assert row.figures["max_abs"] < 1e-5 and row.figures["cosine"] > 0.999999
    assert row.figures["batches"] == [1, 8] and row.samples == 40
    assert len(row.worst) == 3


def _shifted(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"logits": np.roll(_net(inputs)["logits"], 1, axis=0)}


def _first_for_all(inputs: Mapping[str, Array]) -> dict[str, Array]:
    logits = _net(inputs)["logits"]
    return {"logits": np.repeat(logits[:1], len(logits), axis=0)}


def _one_row(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"logits": _net(inputs)["logits"][:1]}


@pytest.mark.parametrize("broken", [_shifted, _first_for_all, _one_row])
def test_a_batch_defect_is_invisible_at_one_and_fails_above(broken: Run) -> None:
    assert _row(broken, batches=(1,)).status == "passed"
    row = _row(broken, batches=(1, 8))
    assert row.status == "failed" and "at batch 8" in row.reason


def test_alike_answers_in_foreign_rows_are_seen_although_every_cosine_is_high() -> None:
    reference = _reference()
    near = [{"logits": np.array([10, 1, 1, 1], np.float32) + i * 0.02} for i in range(40)]
    near_reference = Reference(reference.names, reference.inputs, near, reference.transforms)
    table = {i["image"].tobytes(): near[n]["logits"] for n, i in enumerate(reference.inputs)}

    def run(inputs: Mapping[str, Array], shift: int) -> dict[str, Array]:
        return {"logits": np.roll(np.stack([table[x.tobytes()] for x in inputs["image"]]), shift, axis=0)}

    gate = gate_of("engine_openvino", JUDGE.task, SPEC)
    good, bad = (
        network_row("e", "t", lambda i, s=s: run(i, s), near_reference, JUDGE, gate, batches=(8,))  # type: ignore[misc]
        for s in (0, 1)
    )
    assert good.status == "passed"
    assert bad.status == "failed" and "got the answer of" in bad.reason


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_fail(value: float) -> None:
    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        logits = _net(inputs)["logits"]
        logits[:, 2] = value
        return {"logits": logits}

    row = _row(run)
    assert row.status == "failed" and "NaN or infinite" in row.reason
    json.dumps(row.to_json(), allow_nan=False)


def test_fp32_gate_sees_what_the_engine_gate_lets_pass() -> None:
    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": _net(inputs)["logits"] * np.float32(1.01)}

    assert _row(run, "engine_openvino").status == "passed"
    row = _row(run, "onnx_fp32")
    assert row.status == "failed" and "max_abs_scaled" in row.reason


def test_a_changed_decision_fails_although_the_numbers_are_near() -> None:
    reference = {"logits": np.array([2.0, 1.9, 0, 0], np.float32)}
    other = {"logits": np.array([1.9, 2.0, 0, 0], np.float32)}
    gate = RowGate({"cosine": 0.9, "margin": 0.0})
    verdict = JUDGE.outputs("x", reference, other, None, gate)
    assert not verdict.ok and "top-1" in verdict.why
    assert verdict.reference["classes"][0]["label"] == "a" and verdict.candidate["classes"][0]["label"] == "b"


def test_an_engine_error_is_the_rows_reason() -> None:
    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise EngineFailed("openvino: the run failed: no memory")

    assert _row(run).reason == "openvino: the run failed: no memory"


def test_an_engine_that_takes_other_sizes_fails_its_row() -> None:
    info = EngineInfo(
        "openvino",
        "1",
        "CPU",
        "f32",
        (TensorSpec("image", "FP32", (-1, 1, -1, -1)),),
        (TensorSpec("logits", "FP32", (-1, 4)),),
    )
    gate = gate_of("engine_openvino", JUDGE.task, SPEC)
    row = engine_row("engine_openvino", info, _net, _reference(), JUDGE, gate, expected=SIGNATURE, batches=(1,))
    assert row.status == "failed" and "takes [1, -1, -1], expected [1, 3, 4]" in row.reason


def test_batches_hold_every_sample_and_are_full() -> None:
    reference = _reference(10)
    found = list(groups(reference, 4))
    assert all(len(group) == 4 for group in found)
    assert {i for group in found for i in group} == set(range(10))
    assert found[0] != [0, 1, 2, 3]


def test_numbers_names_what_differs() -> None:
    a = {"x": np.zeros(3, np.float32)}
    assert "shape" in numbers(a, {"x": np.zeros(4, np.float32)})[1]
    assert "expected ['x']" in numbers(a, {"y": np.zeros(3, np.float32)})[1]
    assert numbers(a, a)[0] == {"max_abs": 0.0, "max_abs_scaled": 0.0, "cosine": 1.0}
    assert numbers(a, {"x": np.ones(3, np.float32)})[0]["cosine"] == 0.0


def test_no_samples_is_a_failure_and_the_first_failure_is_named() -> None:
    empty = summarise("onnx_fp32", "t", RowGate(), [])
    assert empty.status == "failed" and empty.reason == "no samples"
    rows = [StageRow("load", "passed", "t"), not_run("preprocess", "t", "no source"), empty, failed("server", "t", "x")]
    assert first_failed(rows) is empty
    with pytest.raises(ValueError, match="needs a reason"):
        StageRow("load", "failed", "t")


def _judged(spec: ModelSpec, reference: list[float], candidate: list[float], margin: float = 0.1) -> str:
    """Why the two sides differ as decisions; '' where they agree."""
    a, b = ({"logits": np.array(scores, np.float32)} for scores in (reference, candidate))
    judge = Judge(task_named("classification"), spec)
    return judge.outputs("x", a, b, None, RowGate({"margin": margin})).why


KNOWN, BARELY, UNSURE = [0.8, 0.1, 0.05, 0.05], [0.68, 0.1, 0.05, 0.05], [0.55, 0.2, 0.05, 0.05]


@pytest.mark.parametrize(
    ("options", "thresholds", "sides", "told"),
    [
        ({"unknown": True}, {"default": {"score_threshold": 0.7}}, (KNOWN, UNSURE), "default: class 0 became unknown"),
        ({"unknown": True}, {"default": {"score_threshold": 0.7}}, (UNSURE, KNOWN), "default: unknown became class 0"),
        ({"unknown": True}, {"default": {"score_threshold": 0.7}}, ([0.72, 0.1, 0.1, 0.0], BARELY), ""),
        ({"unknown": True}, {"sure": {"score_threshold": 0.7}}, (KNOWN, UNSURE), "sure: class 0 became unknown"),
        ({"unknown": True}, {"default": {"score_threshold": 0.5}}, (KNOWN, UNSURE), ""),
        ({}, {"default": {"score_threshold": 0.7}}, (KNOWN, UNSURE), "default: class 0 became nothing"),
        ({"unknown": True}, {"default": {"score_threshold": {"0": 0.6, "*": 0.1}}}, (KNOWN, UNSURE),
         "default: class 0 became class 1"),
        ({"unknown": True}, {"default": {"margin": 0.3}}, ([0.6, 0.2, 0, 0], [0.55, 0.35, 0, 0]),
         "default: class 0 became unknown"),
        ({"unknown": True}, {"default": {"margin": 0.3}}, ([0.6, 0.28, 0, 0], [0.6, 0.32, 0, 0]), ""),
    ],
)  # fmt: skip
def test_decisions_are_judged_at_the_thresholds_that_are_served(
    options: dict[str, Any], thresholds: dict[str, Any], sides: tuple[list[float], list[float]], told: str
) -> None:
    spec = _spec(options={"activation": "none", **options}, thresholds=thresholds)
    why = _judged(spec, *sides)
    assert told in why and bool(told) == bool(why)


def test_the_lead_over_none_of_these_counts_as_well() -> None:
    options = {"unknown": True, "other_class": 3}
    spec = _spec(options=options, thresholds={"default": {"margin": 0.3}})
    far, near = (np.log(scores).tolist() for scores in ([0.6, 0.1, 0.1, 0.2], [0.5, 0.05, 0.05, 0.4]))
    assert "default: class 0 became unknown" in _judged(spec, far, near)
    assert _judged(spec, far, far) == ""


def test_a_multi_label_head_is_compared_in_every_class() -> None:
    spec = _spec(options={"activation": "sigmoid"}, labels=[])
    many = [3.0] * 6 + [-2.0, -2.0]
    assert "moved 0.3808" in _judged(spec, many, [*many[:7], 0.0]), "beyond the fifth class of both sides"
    assert "moved 0.9051" in _judged(spec, many, [-3.0, *many[1:]]), "beyond the fifth class of one side"
    assert _judged(spec, many, [2.9, *many[1:]]) == ""


def test_a_head_of_more_classes_than_an_answer_tells_is_not_off_by_its_last_ones() -> None:
    spec = _spec(options={"activation": "sigmoid"}, labels=[])
    scores = np.linspace(1, 0, 1200)
    swapped = scores.copy()
    swapped[[999, 1000]] = swapped[[1000, 999]]
    logits, other = (np.log((0.1 + 0.8 * s) / (0.9 - 0.8 * s)).tolist() for s in (scores, swapped))
    assert _judged(spec, logits, other, margin=0.0) == ""


def test_boxes_that_were_compared_are_counted_over_all_samples() -> None:
    spec = _spec(task="detection", outputs=[])
    judge = Judge(task_named("detection"), spec, ("a", "b", "c", "d"))
    gate = gate_of("transport", judge.task, spec)
    boxes = np.array([[0, 0, 2, 2], [2, 2, 4, 4]], np.float32)

    def found(*confidence: float) -> Detections:
        count = len(confidence)
        return Detections(boxes[:count], np.array(confidence, np.float32), np.zeros(count, np.int64))

    pairs = [(found(0.9, 0.8), found(0.9, 0.8)), (found(0.44), found(0.46)), (found(), found())]
    row = summarise("transport", "t", gate, [judge.results(f"s{i}", *pair, gate) for i, pair in enumerate(pairs)])
    assert row.status == "passed" and row.figures["boxes"] == 5, "0.45 and above, on both sides"


# preprocess


def _prepared(spec: PreprocessSpec, frame: Array) -> Prepared:
    return prepare(np.asarray(frame, np.uint8), spec)


FRAME = RNG.integers(0, 256, (9, 13, 3), np.uint8)
PLANE = PreprocessSpec(width=8, height=6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"colour": "bgr"}, "pixel_difference"),
        ({"kernel": "pil_nearest"}, "pixel_difference"),
        ({"width": 6, "height": 8}, "pixels 8x6x3"),
        ({"range": "byte"}, "tensor_difference"),
        ({"mean": ()}, "tensor_difference"),
        ({"layout": "nhwc"}, "tensor [6, 8, 3]"),
        ({"colour": "pseudo_grey"}, "pixel_difference"),
    ],
)
def test_each_wrong_preprocessing_fails_by_its_own_figure(change: dict[str, Any], why: str) -> None:
    theirs = _prepared(PLANE, FRAME)
    ours = _prepared(PLANE.model_copy(update=change), FRAME)
    gate = gate_of("preprocess", JUDGE.task, SPEC)
    row = preprocess_row(["a.png"], [ours], [TrainingSide(theirs.pixels, theirs.tensor)], gate)
    assert (row.status == "failed") == bool(why)
    assert why in row.reason


def test_without_a_training_side_the_row_is_not_run() -> None:
    row = preprocess_row(["a"], [_prepared(PLANE, FRAME)], None, RowGate())
    assert row.status == "not_run" and "no training side" in row.reason


# facts


def test_load_row_lets_named_keys_pass_only() -> None:
    report = {"missing": ["head.bias"], "unexpected": [], "reshaped": [], "dtype_changed": []}
    assert load_row(report, SPEC).status == "failed"
    named = _spec(checkpoint={"allow_missing": ["head.bias"]})
    assert load_row(report, named).status == "passed"
    assert "reshaped: head.weight" in load_row({"reshaped": ["head.weight"]}, named).reason


def test_swapped_class_names_are_named() -> None:
    assert labels_row(["a", "b"], ["a", "b"]).status == "passed"
    row = labels_row(["b", "a"], ["a", "b"])
    assert row.status == "failed" and "class 0 is 'b', the source says 'a'" in row.reason
    assert labels_row(["a"], None).reason == "no source"


def test_labels_are_as_many_as_the_network_has_classes() -> None:
    row = labels_row(["a", "b"], None, classes=3)
    assert (row.status, row.reason) == ("failed", "2 labels, the network gives 3 classes")
    assert labels_row(["a", "b"], ["a", "b"], classes=2).status == "passed"
    assert labels_row([], None, classes=3).status == "not_run", "a spec may leave the names out"


def test_constants_are_compared_by_value() -> None:
    options = {"nms_iou": 0.45, "max_detections": 100}
    assert constants_row({"nms_iou": 0.45}, options).status == "passed"
    assert "nms_iou is 0.45, the source says 0.6" in constants_row({"nms_iou": 0.6}, options).reason
    assert "no such option" in constants_row({"anchors": [1]}, options).reason
    assert constants_row(None, options).status == "not_run"


def test_expected_score_names_the_side_that_fell_short() -> None:
    right = [Classification(np.array([i], np.int64), np.array([1.0], np.float32)) for i in (0, 1, 2, 3)]
    wrong = right[1:] + right[:1]
    labels, expect = ["0", "1", "2", "3"], ExpectSpec(metric="top1", at_least=0.9)
    task = JUDGE.task
    assert expected_score_row(task, SPEC, expect, labels, right, right).status == "passed"
    row = expected_score_row(task, SPEC, expect, labels, right, wrong)
    assert row.status == "failed" and "served 0.0000" in row.reason and "checkpoint" not in row.reason
    assert expected_score_row(task, SPEC, expect, None, right, right).reason == "no labels"
