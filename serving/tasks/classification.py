"""Classification: logits [classes] -> the best classes with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.tasks.base import Agreement, Gate, Parameter, parse_options
from serving.types import Array, Classification, FloatArray, ImageTransform, TaskResult, TensorSpec


class ClassificationOptions(BaseModel):
    """activation: what turns the network's numbers into scores (none: they are scores already)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"


class ClassificationTask:
    """Top-k by score; ties go to the lower class_id."""

    name = "classification"
    options_model = ClassificationOptions
    parameters: Mapping[str, Parameter] = {
        "top_k": Parameter("int", 1, 1000, 5, "how many classes, best first"),
        "score_threshold": Parameter("float", 0.0, 1.0, 0.0, "classes below this score are left out"),
    }
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"margin": 0.0},
        "onnx_fp16": {"cosine": 0.9995, "margin": 0.05},
        "engine": {"cosine": 0.995, "margin": 0.10},
        "transport": {"margin": 0.20},
    }

    def check(self, spec: ModelSpec) -> None:
        """One output of logits or scores, and known options."""
        parse_options(ClassificationOptions, spec)
        if len(spec.outputs) > 1:
            raise SpecInvalid(f"{spec.name}: outputs: classification has one, got {list(spec.outputs)}")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """class_id INT32 [k], score FP32 [k]."""
        return TensorSpec("class_id", "INT32", (-1,)), TensorSpec("score", "FP32", (-1,))

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Classification:
        """Logits -> scores -> top_k at or above score_threshold."""
        scores = activate(next(iter(raw.values())), parse_options(ClassificationOptions, spec).activation)
        order = np.argsort(-scores, kind="stable")[: int(parameters.get("top_k") or 5)]
        order = order[scores[order] >= float(parameters.get("score_threshold") or 0.0)]
        return Classification(order.astype(np.int64), scores[order])

    def count_classes(self, raw: Mapping[str, Array], spec: ModelSpec) -> int:
        """The length of the scores."""
        return int(np.shape(next(iter(raw.values())))[-1])

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`classes: [{class_id, label, score}]`, best first."""
        assert isinstance(result, Classification)
        rows = zip(result.class_id.tolist(), result.score.tolist(), strict=True)
        return {"classes": [{"class_id": c, "label": label_of(labels, c), "score": round(s, 6)} for c, s in rows]}

    def from_document(self, document: Mapping[str, Any]) -> Classification:
        """`classes` back."""
        rows = document["classes"]
        class_id = np.array([row["class_id"] for row in rows], np.int64)
        return Classification(class_id, np.array([row["score"] for row in rows], np.float32))

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """class_id and score."""
        assert isinstance(result, Classification)
        return {"class_id": result.class_id.astype(np.int32), "score": result.score}

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Top-1 equal wherever the reference's margin to its runner-up is at least the gate's."""
        assert isinstance(reference, Classification) and isinstance(candidate, Classification)
        scores = reference.score
        margin = float(scores[0] - scores[1]) if len(scores) > 1 else 1.0
        same = bool(len(scores)) and bool(len(candidate.class_id)) and reference.class_id[0] == candidate.class_id[0]
        ok = same or margin < gate.get("margin", 0.0)
        if not len(scores) and not len(candidate.score):
            ok = True
        why = "" if ok else f"top-1 {reference.class_id[:1].tolist()} became {candidate.class_id[:1].tolist()}"
        return Agreement(ok, {"top1_equal": float(same), "margin": margin}, why)

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """top1 or top5: share of samples whose label (a class_id as text) is among the first 1 or 5."""
        depth = {"top1": 1, "top5": 5}.get(metric)
        if depth is None:
            raise SpecInvalid(f"{spec.name}: expect.metric: expected top1 or top5, got {metric!r}")
        pairs = [(r, int(label)) for r, label in zip(results, labels, strict=True) if isinstance(r, Classification)]
        return float(np.mean([label in r.class_id[:depth].tolist() for r, label in pairs]))


def activate(logits: Array, activation: str) -> FloatArray:
    """softmax (shifted by the maximum), sigmoid or nothing, in float32 over the last axis."""
    x = np.asarray(logits, np.float32)
    if activation == "softmax":
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
    if activation == "sigmoid":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float32)
    return x


def label_of(labels: Sequence[str], class_id: int) -> str:
    """The label, or `class_<id>` where the list is shorter."""
    return labels[class_id] if class_id < len(labels) else f"class_{class_id}"


TASK = ClassificationTask()
