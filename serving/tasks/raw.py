"""Raw: any other model as named tensors, served through `/v2`; nothing is added to its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.tasks.base import Agreement, Gate, Parameter
from serving.types import Array, ImageTransform, RawTensors, TaskResult, TensorSpec


class RawTask:
    """The network's own outputs."""

    name = "raw"
    parameters: Mapping[str, Parameter] = {}
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"tensor_cosine": 0.99999},
        "onnx_fp16": {"cosine": 0.9995, "tensor_cosine": 0.9995},
        "engine": {"cosine": 0.995, "tensor_cosine": 0.995},
    }

    def check(self, spec: ModelSpec) -> None:
        """Outputs have names; options are empty."""
        if not spec.outputs:
            raise SpecInvalid(f"{spec.name}: outputs: task raw needs the names of the network's outputs, in order")
        if spec.options:
            raise SpecInvalid(f"{spec.name}: options: task raw has none, got {sorted(spec.options)}")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """The network's outputs as FP32 of any shape (their rank is read from the engine when it is served)."""
        return tuple(TensorSpec(name, "FP32", (-1,)) for name in spec.outputs)

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> RawTensors:
        """As they came."""
        return RawTensors({name: np.asarray(raw[name]) for name in spec.outputs})

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`outputs: [{name, shape}]`: numbers go by /v2, never by JSON."""
        assert isinstance(result, RawTensors)
        return {"outputs": [{"name": n, "shape": list(a.shape)} for n, a in result.tensors.items()]}

    def from_document(self, document: Mapping[str, Any]) -> RawTensors:
        """A raw document names its tensors only."""
        raise ValueError("task raw: its document holds no numbers")

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """The outputs."""
        assert isinstance(result, RawTensors)
        return dict(result.tensors)

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Cosine of every tensor at least gate.tensor_cosine, shapes equal."""
        assert isinstance(reference, RawTensors) and isinstance(candidate, RawTensors)
        worst, why = 1.0, ""
        for name, a in reference.tensors.items():
            b = candidate.tensors[name]
            if a.shape != b.shape:
                return Agreement(False, {"tensor_cosine": 0.0}, f"{name}: shape {a.shape} became {b.shape}")
            x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
            norm = float(np.linalg.norm(x) * np.linalg.norm(y))
            cosine = float(x @ y) / norm if norm else float(np.array_equal(x, y))
            if cosine < worst:
                worst, why = cosine, f"{name}: cosine {cosine:.6f}"
        ok = worst >= gate.get("tensor_cosine", 0.995)
        return Agreement(ok, {"tensor_cosine": worst}, "" if ok else why)

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """Raw tensors have no meaning to score."""
        raise SpecInvalid(f"{spec.name}: expect: task raw has no metric, got {metric!r}")


TASK = RawTask()
