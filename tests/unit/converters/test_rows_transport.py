"""The row `transport`: JPEG of the log through the same served model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.parity import Judge
from converters.rows_gates import decisions_only, gate_of
from converters.rows_transport import transport_row
from converters.samples import Sample
from serving.bundle import UNCERTIFIED, ModelBundle
from serving.config import Settings
from serving.preprocess.jpeg import JpegCodec, frame_codec
from serving.served_model import ServedModel
from serving.spec import ModelSpec
from serving.testing.fake_engine import FunctionEngine
from serving.types import Array, TensorSpec

SPEC: dict[str, Any] = {
    "name": "m", "task": "classification", "checkpoint": {"format": "onnx", "path": "m.onnx"},
    "preprocess": {"width": 64, "height": 64, "range": "byte"}, "labels": ["a", "b"],
}  # fmt: skip


def brightness(pictures: Array) -> Array:
    """What JPEG keeps."""
    return pictures.mean(axis=(1, 2, 3)) / 255


def hue_of_single_pixels(pictures: Array) -> Array:
    """What 4:2:0 averages away: neighbours' difference in colour."""
    chroma = pictures[:, 0] - pictures[:, 2]
    return np.clip(np.abs(np.diff(chroma, axis=2)).mean(axis=(1, 2)) / 50 - 1, 0, 1)


def row(function: Any, codec: JpegCodec = JpegCodec(), **changes: Any) -> Any:
    spec = ModelSpec.model_validate(SPEC | changes)

    def engine(inputs: Mapping[str, Array]) -> dict[str, Array]:
        likely = function(inputs["input"])
        return {"logits": np.stack([9 - 18 * likely, 18 * likely - 9], 1).astype(np.float32)}

    double = FunctionEngine(engine, (TensorSpec("input", "FP32", (3, 64, 64)),), (TensorSpec("logits", "FP32", (2,)),))
    bundle = ModelBundle(spec, ("a", "b"), 1, Path(), UNCERTIFIED, "openvino", "f32", 1, double.info.inputs,
                         double.info.outputs)  # fmt: skip
    model = ServedModel(bundle, double)
    gate = decisions_only(gate_of("transport", model.task, spec))
    return transport_row(model, [noise(0), noise(1)], codec, Judge(model.task, spec, ("a", "b")), gate)


def noise(seed: int) -> Sample:
    """Every pixel red or blue by chance: the hardest there is for 4:2:0."""
    red = np.random.default_rng(seed).integers(0, 2, (64, 64)).astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(np.stack([red, red * 0 + 30, 255 - red], axis=2)).save(buffer, "PNG")
    return Sample(f"n{seed}.png", Path("n.png"), buffer.getvalue())


def test_a_model_of_what_jpeg_keeps_passes_and_says_how_far_pixels_moved() -> None:
    passed = row(brightness)
    assert passed.status == "passed" and passed.samples == 2 and passed.gate == {"margin": 0.2}
    assert passed.figures["pixels_mean_abs"] > 10


def test_a_model_of_what_jpeg_removes_fails_and_names_the_sample() -> None:
    broken = row(hue_of_single_pixels)
    assert broken.status == "failed" and "2 of 2 samples, first n0.png" in broken.reason
    assert [w.sample for w in broken.worst] == ["n0.png", "n1.png"]


def test_the_row_is_made_with_the_codec_of_the_settings_and_says_so() -> None:
    full = frame_codec(Settings(frame_codec="jpeg444", frame_quality=95))
    kept = row(hue_of_single_pixels, full)
    assert kept.status == "passed" and "(quality 95, 4:4:4)" in kept.compared
    assert "(quality 90, 4:2:0)" in row(hue_of_single_pixels, frame_codec(Settings())).compared


def test_raw_tensors_do_not_travel_on_the_log() -> None:
    inputs = [{"name": "input", "shape": [3, 64, 64]}]
    raw = row(brightness, task="raw", preprocess=None, inputs=inputs, outputs=["logits"])
    assert raw.status == "not_run" and raw.reason.startswith("no pictures")


@pytest.mark.parametrize("task", ["classification", "detection", "embedding", "face"])
def test_every_picture_task_has_a_gate_of_decisions(task: str) -> None:
    from serving.tasks import task_named

    gate = gate_of("transport", task_named(task), ModelSpec.model_validate({**SPEC, "task": task}))
    assert gate.bounds and "cosine" not in gate.bounds
