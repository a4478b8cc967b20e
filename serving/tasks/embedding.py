"""Embedding: one vector a sample, L2-normalised on request of the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import SpecInvalid
from serving.preprocess.chips import TEMPLATES
from serving.spec import ModelSpec
from serving.tasks.base import Agreement, Gate, Parameter, parse_options
from serving.types import Array, Embedding, ImageTransform, TaskResult, TensorSpec


class EmbeddingOptions(BaseModel):
    """normalise: divide by the L2 norm, so that a dot product is the cosine.

    align: what its pictures must be moved onto before they come (a pipeline's `align` step does it); '' as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    normalise: bool = True
    align: str = Field("", description="template of serving/preprocess/chips.py: dlib_150, arcface_112")


class EmbeddingTask:
    """The network's vector, agreement by cosine."""

    name = "embedding"
    options_model = EmbeddingOptions
    parameters: Mapping[str, Parameter] = {}
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"embedding_cosine": 0.99999},
        "onnx_fp16": {"cosine": 0.9995, "embedding_cosine": 0.999},
        "engine": {"cosine": 0.995, "embedding_cosine": 0.995},
        "transport": {"embedding_cosine": 0.98},
    }

    def check(self, spec: ModelSpec) -> None:
        """Known options, one output; a plane of the template's size."""
        template = parse_options(EmbeddingOptions, spec).align
        if template:
            _check_template(template, spec)
        if len(spec.outputs) > 1:
            raise SpecInvalid(f"{spec.name}: outputs: embedding has one, got {list(spec.outputs)}")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """embedding FP32 [d]."""
        return (TensorSpec("embedding", "FP32", (-1,)),)

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Embedding:
        """Flatten and, where the spec says so, normalise (a zero vector stays zero)."""
        vector = np.asarray(next(iter(raw.values())), np.float32).ravel()
        norm = float(np.linalg.norm(vector))
        if parse_options(EmbeddingOptions, spec).normalise and norm > 0:
            vector = (vector / norm).astype(np.float32)
        return Embedding(vector)

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`embedding: [float]`."""
        assert isinstance(result, Embedding)
        return {"embedding": result.vector.tolist()}

    def from_document(self, document: Mapping[str, Any]) -> Embedding:
        """`embedding` back."""
        return Embedding(np.array(document["embedding"], np.float32))

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """embedding."""
        assert isinstance(result, Embedding)
        return {"embedding": result.vector}

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Cosine of the two vectors at least gate.embedding_cosine."""
        assert isinstance(reference, Embedding) and isinstance(candidate, Embedding)
        norms = float(np.linalg.norm(reference.vector) * np.linalg.norm(candidate.vector))
        cosine = float(reference.vector @ candidate.vector) / norms if norms else 0.0
        ok = cosine >= gate.get("embedding_cosine", 0.995)
        return Agreement(ok, {"embedding_cosine": cosine}, "" if ok else f"cosine {cosine:.5f}")

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """top1: share of samples whose nearest other sample has the same label."""
        if metric != "top1":
            raise SpecInvalid(f"{spec.name}: expect.metric: expected top1, got {metric!r}")
        vectors = np.stack([r.vector for r in results if isinstance(r, Embedding)])
        table = vectors @ vectors.T
        np.fill_diagonal(table, -np.inf)
        return float(np.mean([labels[i] == labels[j] for i, j in enumerate(table.argmax(axis=1))]))


def _check_template(name: str, spec: ModelSpec) -> None:
    if name not in TEMPLATES:
        raise SpecInvalid(f"{spec.name}: options.align: expected one of {', '.join(TEMPLATES)}, got {name!r}")
    size, rule = TEMPLATES[name].size, spec.preprocess
    plane = (rule.width, rule.height) if rule else (0, 0)
    if plane != (size, size):
        what = f"{spec.name}: options.align: chips of {name} are {size}x{size}"
        raise SpecInvalid(f"{what}, preprocess takes {plane[0]}x{plane[1]}", hint="set preprocess.width and height")


TASK = EmbeddingTask()
