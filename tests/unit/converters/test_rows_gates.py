"""Bounds of the certificate's rows: tightened, loosened with a reason, or refused where nothing reads them."""

from __future__ import annotations

import pytest
from tiny_spec import tiny_spec

from converters.rows_gates import gate_of
from serving.errors import SpecInvalid
from serving.tasks import task_named


def test_a_tightened_gate_is_taken_and_a_loosened_one_needs_a_reason() -> None:
    task = task_named("classification")
    tight = gate_of("engine_openvino", task, tiny_spec(parity={"gates": {"engine": {"cosine": 0.999}}}))
    assert tight.bounds["cosine"] == 0.999 and tight.loosened == ()
    loose = {"gates": {"engine_openvino": {"cosine": 0.9}}}
    with pytest.raises(SpecInvalid, match=r"cosine 0.995 -> 0.9 is looser"):
        gate_of("engine_openvino", task, tiny_spec(parity=loose))
    allowed = gate_of("engine_openvino", task, tiny_spec(parity={**loose, "because": "bf16 of a wide softmax"}))
    assert allowed.loosened == ("cosine",) and allowed.because == "bf16 of a wide softmax"


def test_gates_that_nothing_reads_are_refused() -> None:
    task = task_named("classification")
    with pytest.raises(SpecInvalid, match="unknown row 'engine_openvin'"):
        gate_of("preprocess", task, tiny_spec(parity={"gates": {"engine_openvin": {"cosine": 1}}}))
    with pytest.raises(SpecInvalid, match="unknown bound 'cosin'"):
        gate_of("preprocess", task, tiny_spec(parity={"gates": {"engine": {"cosin": 1}}}))


@pytest.mark.parametrize(
    ("task", "row", "bound", "reads"),
    [
        ("classification", "engine", "iou", "cosine, margin, max_abs_scaled"),
        ("classification", "server", "cosine", "margin"),
        ("classification", "transport", "max_abs_scaled", "margin"),
        ("classification", "preprocess", "cosine", "pixel_difference, tensor_difference"),
        ("detection", "engine_openvino", "landmarks", "cosine, iou, margin, max_abs_scaled, score, threshold"),
        ("audio", "onnx_fp16", "score", "cosine, margin, max_abs_scaled, threshold"),
    ],
)
def test_a_bound_that_its_row_does_not_read_is_refused(task: str, row: str, bound: str, reads: str) -> None:
    spec = tiny_spec(parity={"gates": {row: {bound: 0.5}}, "because": "b"})
    with pytest.raises(SpecInvalid, match=f"parity.gates.{row}: bound '{bound}' is not read by .*; it reads: {reads}$"):
        gate_of("preprocess", task_named(task), spec)


def test_numbers_may_be_bounded_wherever_they_are_compared() -> None:
    both = {"cosine": 0.9999, "max_abs_scaled": 1e-5}
    rows = ("onnx_fp32", "onnx_fp16", "engine", "engine_openvino", "engine_tensorrt_rtx")
    spec = tiny_spec(parity={"gates": dict.fromkeys(rows, both)})
    for row in set(rows) - {"engine"}:
        assert gate_of(row, task_named("raw"), spec).bounds.items() >= both.items()


def test_bounds_of_the_engines_hold_for_what_is_served_by_them() -> None:
    task, gates = task_named("detection"), {"engine": {"iou": 0.97, "cosine": 0.999}, "gateway": {"iou": 0.98}}
    spec = tiny_spec(task="detection", outputs=[], parity={"gates": gates})
    assert gate_of("server", task, spec).bounds["iou"] == 0.97
    assert gate_of("gateway", task, spec).bounds["iou"] == 0.98
    assert gate_of("engine_onnxruntime", task, spec).bounds["iou"] == 0.97
    assert gate_of("transport", task, spec).bounds["iou"] == 0.80, "pictures through JPEG have bounds of their own"
    parity = {"gates": {"engine": {"iou": 0.8}}, "because": "small boxes"}
    loose = tiny_spec(task="detection", outputs=[], parity=parity)
    assert gate_of("server", task, loose).loosened == ("iou",)


def test_a_scenario_lowers_a_detectors_threshold_and_never_raises_it() -> None:
    task = task_named("detection")
    low = tiny_spec(task="detection", outputs=[], thresholds={"far": {"score_threshold": 0.15}})
    high = tiny_spec(task="detection", outputs=[], thresholds={"near": {"score_threshold": 0.8}})
    assert gate_of("engine_openvino", task, low).bounds["threshold"] == 0.15
    assert gate_of("engine_openvino", task, high).bounds["threshold"] == 0.3
