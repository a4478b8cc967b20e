"""Half precision in the graph itself: explicit types, FP32 inputs and outputs, a reason for every node kept in FP32.

TensorRT 11 has no FP16 switch any more and earlier versions took it as a wish; a strongly typed graph says what runs in
what. Range is measured on real samples first (activations), so a layer that would overflow is kept in FP32 by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from converters.activations import largest_activations, largest_weights
from converters.arrays import Sample
from converters.half_emulation import run_fp16_emulated
from converters.half_graph import half_graph
from converters.half_plan import Kept, Plan, float_tensors, plan, typed
from serving.errors import PrecisionFailed, StorageFailed
from serving.spec import ModelSpec
from serving.types import Array

__all__ = ["Kept", "PrecisionReport", "half_precision", "run_fp16_emulated"]
_BATCH = 4
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Einsum", "Attention")


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """What became half and what did not.

    half, casts: counts of nodes; kept: each node in FP32 with its reason; kept_operators: count by operator;
    heavy_kept: multiplying layers among them (SM75 has no FP32 ones); largest: the five largest activations by tensor;
    flushed_weights: weights that were not 0 and are 0 in half; samples: how many the activations were measured on.
    """

    half: int
    casts: int
    kept: tuple[Kept, ...]
    kept_operators: dict[str, int]
    heavy_kept: tuple[str, ...]
    largest: tuple[tuple[str, float], ...]
    flushed_weights: int
    samples: int
    size_bytes: int


def half_precision(source: Path, target: Path, samples: Sequence[Sample], spec: ModelSpec) -> PrecisionReport:
    """Write the FP16 variant of the FP32 graph `source` to `target`.

    samples: named arrays without batch axis, the ones the certificate uses. Raises PrecisionFailed when nothing could
    become half, the graph does not run on the samples, or the result is not a valid graph.
    """
    model = typed(_constants_as_weights(onnx.load(source)))
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    made = [name for node in model.graph.node for name in node.output if name]
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    floats = float_tensors(model)
    probed = [name for name in (*inputs, *made) if name in floats]
    measured = largest_activations(model, probed, samples, batch=min(_BATCH, spec.batch.max))
    decided = plan(model, measured, largest_weights(weights), spec.keep_fp32)
    _refuse_nothing(model, decided, spec)
    _refuse_unknown_names(model, spec)
    rewritten, casts = half_graph(model, decided)
    _check(rewritten, source.name)
    _write(rewritten, target)
    return PrecisionReport(
        half=len(decided.half),
        casts=casts,
        kept=decided.kept,
        kept_operators=dict(sorted(Counter(kept.operator for kept in decided.kept).items())),
        heavy_kept=tuple(f"{k.operator} in {k.module}" for k in decided.kept if k.operator in HEAVY),
        largest=tuple(sorted(measured.items(), key=lambda item: -item[1])[:5]),
        flushed_weights=_flushed(model, decided, weights),
        samples=len(samples),
        size_bytes=target.stat().st_size,
    )


def _constants_as_weights(model: Any) -> Any:
    """Constant nodes become initializers, so that each use may have its own type."""
    nodes = []
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _refuse_nothing(model: Any, decided: Plan, spec: ModelSpec) -> None:
    if decided.half:
        return
    reasons = "; ".join(f"{kept.operator} in {kept.module}: {kept.reason}" for kept in decided.kept[:4])
    raise PrecisionFailed(f"{spec.name}: no node can be half: {reasons}", hint="set precision: fp32 in the spec")


def _refuse_unknown_names(model: Any, spec: ModelSpec) -> None:
    """A name under keep_fp32 that keeps nothing is a typing error, not a wish granted."""
    for pattern in spec.keep_fp32:
        alone = plan(model, {}, {}, [pattern]).kept
        if not any(kept.reason == f"the spec keeps {pattern}" for kept in alone):
            raise PrecisionFailed(
                f"{spec.name}: keep_fp32 names {pattern!r}, which is no operator, node or module of the graph"
            )


def _check(model: Any, name: str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        raise PrecisionFailed(f"{name}: the half-precision graph is not valid: {text}") from error
    typed(model)


def _write(model: Any, target: Path) -> None:
    try:
        onnx.save(model, target)
    except OSError as error:
        raise StorageFailed(f"{target}: {error.strerror}") from error


def _flushed(model: Any, decided: Plan, weights: dict[str, Array]) -> int:
    used = {name for index in decided.half for name in model.graph.node[index].input if name in weights}
    return sum(int(np.count_nonzero(weights[n]) - np.count_nonzero(weights[n].astype(np.float16))) for n in used)
