"""Engines that cannot run here are judged by the dtypes that were read back, never by their file's name."""

from __future__ import annotations

from typing import Any

import pytest

from converters.rows_tensorrt import built_dtypes, built_row


def engine(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "library": "tensorrt_rtx", "library_version": "1.7", "file": "engine.tensorrt_rtx.sm75.trt",
        "targets": ["SM75"], "precision": "f16", "size_bytes": 10, "ratio": 0.5, "dtypes_from": "parsed network",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        "layers": [{"name": "conv", "kind": "CONVOLUTION", "dtype": "f16"}], "profile": {},
    }  # fmt: skip
    return {**value, **changes}


def row(precision: str = "fp16", left_out: dict[str, str] | None = None, **changes: Any) -> Any:
    report = {"engines": [engine(**changes)], "left_out": left_out or {}}
    return built_row("engine_tensorrt_rtx", report, precision, "no usable GPU")


def test_a_sound_engine_is_not_run_for_want_of_a_device() -> None:
    found = row(left_out={"sm90": "not known"})
    assert found.status == "not_run" and found.reason == "no device: no usable GPU"
    assert found.figures["sm75_layers"] == "1 f16" and found.figures["sm90_left_out"] == "not known"


CAST = {"name": "c", "kind": "CAST", "dtype": "f16"}
FP32 = {"name": "conv", "kind": "CONVOLUTION", "dtype": "f32"}


@pytest.mark.parametrize(
    ("precision", "changes", "words"),
    [
        ("fp16", {"layers": [FP32, CAST]}, "an FP32 engine under an FP16 name"),
        ("fp32", {}, "computes in half precision, the spec says fp32"),
        ("fp16", {"inputs": [{"name": "images", "datatype": "FP16", "shape": [-1]}]}, "images is FP16 at the edge"),
        ("fp16", {"ratio": 1.02}, "1.02 of an FP32 build's size"),
    ],
)
def test_what_the_dtypes_contradict_fails(precision: str, changes: dict[str, Any], words: str) -> None:
    found = row(precision, **changes)
    assert found.status == "failed" and words in found.reason


def test_no_engine_at_all_fails_with_what_was_left_out() -> None:
    report: dict[str, Any] = {"engines": [], "left_out": {"sm75": "FP32 Gemm"}}
    assert "FP32 Gemm" in built_row("engine_tensorrt_rtx", report, "fp16", "x").reason


def test_every_dtype_is_recorded_with_its_source() -> None:
    told = built_dtypes({"engines": [engine()], "left_out": {}})["engine.tensorrt_rtx.sm75.trt"]
    assert told["read_from"] == "parsed network" and told["layer conv (CONVOLUTION)"] == "f16"
    assert told["input images"] == "FP32 [-1, 3]"
