"""One row through the converter's own stages, and the verdict of each target by the certificate's default gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import torch

from converters.frozen import freeze
from converters.onnx_checked import checked_onnx
from converters.onnx_from_checkpoint import onnx_from_module
from converters.precision import half_precision, run_fp16_emulated
from converters.tensorrt_build import tensorrt_from_onnx
from serving.engines import open_engine
from serving.errors import OperatorUnsupported
from serving.spec import ModelSpec

TARGETS = ("ONNX", "OpenVINO", "TensorRT-RTX", "SM75")
_SAMPLES = 5


def verdicts(row: str, folder: Path) -> dict[str, str]:
    """Target -> `certified`, `refused: <operator>`, `left out: <reason>` or `-` (nothing to give it).

    ONNX: max |difference| <= 1e-4 x max(1, max |reference|). OpenVINO: cosine >= 0.995 of every sample in f32, and
    0.85 in bf16 where the CPU has it; its layers compute in what was asked. TensorRT-RTX: the half graph with rounded
    answers at cosine >= 0.9995, then an engine whose parsed network has halves inside and FP32 at the edges. A gate
    that is missed is an AssertionError.
    """
    net, shape = architectures.build(row)
    x = torch.from_numpy(np.random.default_rng(4).standard_normal((_SAMPLES, *shape)).astype(np.float32))
    reference = architectures.outputs_of(net, x)
    spec = _spec(shape, len(reference))
    samples = [{"x": sample} for sample in x.numpy()]
    freeze(net)
    found = dict.fromkeys(TARGETS, "-")
    found["ONNX"] = _try(lambda: _onnx(net, spec, samples, reference, folder))
    if found["ONNX"] != "certified":
        return found
    found["OpenVINO"] = _try(lambda: _openvino(x.numpy(), reference, folder))
    report: dict[str, Any] = {}
    found["TensorRT-RTX"] = _try(lambda: report.update(_tensorrt(x.numpy(), samples, reference, spec, folder)))
    if found["TensorRT-RTX"] == "certified":
        left = report["left_out"].get("sm75")
        found["SM75"] = "certified" if left is None else f"left out: {left}"
    return found


def _spec(shape: Sequence[int], outputs: int) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "row",
            "task": "raw",
            "factory": {"callable": "architectures:build"},
            "inputs": [{"name": "x", "shape": list(shape)}],
            "outputs": [f"y{i}" for i in range(outputs)],
            "batch": {"opt": 2, "max": 8},
        }
    )


def _try(stage: Callable[[], object]) -> str:
    try:
        stage()
    except OperatorUnsupported as error:
        return f"refused: {error.message}"
    return "certified"


def _onnx(net: Any, spec: ModelSpec, samples: list[Any], reference: list[Any], folder: Path) -> None:
    example = {"x": np.stack([samples[0]["x"], samples[1]["x"]])}
    onnx_from_module(net, None, spec, example, folder / "raw.onnx")
    checked_onnx(folder / "raw.onnx", folder / "model.onnx", spec)
    engine = open_engine("onnxruntime", folder)
    for batch in (1, _SAMPLES):
        answers = _in_batches(engine.run, np.stack([s["x"] for s in samples]), batch)
        for answer, wanted in zip(answers, reference, strict=True):
            bound = 1e-4 * max(1.0, float(np.abs(wanted).max()))
            assert np.abs(answer - wanted).max() <= bound, f"onnx_fp32 at batch {batch}"
    engine.close()


def _openvino(x: Any, reference: list[Any], folder: Path) -> None:
    from converters.engine_from_onnx import openvino_from_onnx
    from serving.engines.openvino import bf16_supported, load

    path = openvino_from_onnx(folder / "model.onnx", folder)
    for precision in ("f32", "bf16") if bf16_supported() else ("f32",):
        engine = load(path, threads=2, precision=precision)
        assert engine.info.precision == precision
        # Whether bf16 is served is for each model's certificate to say: random deep networks amplify its rounding.
        bound = {"f32": 0.995, "bf16": 0.85}[precision]
        _require_cosine(_in_batches(engine.run, x, 3), reference, bound, f"engine_openvino {precision}")
        engine.close()


def _tensorrt(x: Any, samples: list[Any], reference: list[Any], spec: ModelSpec, folder: Path) -> dict[str, Any]:
    half = folder / "model.fp16.onnx"
    half_precision(folder / "model.onnx", half, samples, spec)
    answers = _in_batches(lambda inputs: run_fp16_emulated(half, inputs), x, _SAMPLES)
    _require_cosine(answers, reference, 0.9995, "onnx_fp16")
    report = tensorrt_from_onnx(half, folder / "model.onnx", folder, spec)
    for engine in report.engines:
        assert {t.datatype for t in (*engine.inputs, *engine.outputs)} == {"FP32"}
        assert "f16" in {layer.dtype for layer in engine.layers}
        assert (folder / engine.file).stat().st_size == engine.size_bytes
    return {"left_out": report.left_out}


def _in_batches(run: Callable[[dict[str, Any]], dict[str, Any]], x: Any, size: int) -> list[Any]:
    parts = [list(run({"x": x[i : i + size]}).values()) for i in range(0, len(x), size)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _require_cosine(answers: list[Any], reference: list[Any], bound: float, stage: str) -> None:
    for answer, wanted in zip(answers, reference, strict=True):
        a, b = (value.reshape(len(value), -1).astype(np.float64) for value in (answer, wanted))
        cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
        assert cosine.min() >= bound, f"{stage}: cosine {cosine.min():.6f} under {bound}"
